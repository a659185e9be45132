"""Tasks of an evaluation share processes and the extractor in them, and their errors say what they did."""

import os
import signal

import pytest
import ray

import lbae
from lbae.distributed.cluster.session import session
from lbae.distributed.cluster.torch_env import TORCH_RUNTIME_ENV
from lbae.distributed.evaluate.extractor_tasks import ExtractorTasks, in_completion_order
from lbae.errors import LbaeError, UnforeseenError
from lbae.io.artifacts.attribute_columns import Attribute
from lbae.report.evaluation.feature_extraction import FeatureExtractor
from lbae.report.features.classifier import Classifier
from tests.conftest import ROOT


@pytest.fixture
def extractor() -> FeatureExtractor:
    bundle = lbae.load_bundle(str(ROOT / "tests" / "golden" / "v1" / "bundle"))
    return FeatureExtractor(
        bundle=bundle,
        priors={"mixture": bundle.prior},
        network=Classifier(1, (Attribute(name="label=0", column="label", yes=0),), {}).eval(),
        classifier=None,
        lpips=None,
        rules="ours",
        samples=8,
        seed=0,
    )


def used(extractor: FeatureExtractor, turn: int) -> tuple[int, int, int, str]:
    """The turn, the process, the extractor's place in its memory, and an environment variable."""
    return turn, os.getpid(), id(extractor), os.environ["MALLOC_ARENA_MAX"]


def test_a_process_loads_the_extractor_once_for_many_calls(ray_session, extractor):
    tasks = ExtractorTasks(extractor)
    found = list(in_completion_order([tasks.start(used, turn) for turn in range(20)]))
    assert sorted(turn for turn, *_ in found) == list(range(20))
    processes = {process for _, process, *_ in found}
    assert len({(process, place) for _, process, place, _ in found}) == len(processes)
    assert {arenas for *_, arenas in found} == {TORCH_RUNTIME_ENV["env_vars"]["MALLOC_ARENA_MAX"]}


def test_a_block_is_what_the_extractor_makes_in_this_process(ray_session, extractor):
    tasks = ExtractorTasks(extractor)
    (block,) = ray.get(tasks.start(FeatureExtractor.sample_block, name="mixture", index=0))
    (expected,) = extractor.sample_block("mixture", 0)
    assert (block.latents == expected.latents).all()
    assert block.features == pytest.approx(expected.features, rel=1e-5, abs=1e-6)


def test_an_unforeseen_error_says_what_was_called_with_which_arguments(ray_session, extractor):
    tasks = ExtractorTasks(extractor)
    message = r"KeyError: 'unknown' \(while sample_block name=unknown, index=3\)"
    with pytest.raises(UnforeseenError, match=message), session():
        list(in_completion_order([tasks.start(FeatureExtractor.sample_block, name="unknown", index=3)]))


def dies(_: FeatureExtractor) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_call_that_kills_its_process_ends_the_evaluation(ray_session, extractor):
    with pytest.raises(LbaeError, match=r"a worker process died 4 times .*; run the evaluation again: "):
        list(in_completion_order([ExtractorTasks(extractor).start(dies)]))
