"""An evaluation of 10,000 images and five priors, compared with its bare work in one process.

Both use two cores. The bare work is encoding, sampling, decoding and features. The job also compares
features, edits, paths, rates and neighbours.
"""

import itertools
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import ray
import torch

from lbae.core.latents.interpolation import interpolate
from lbae.distributed.evaluate.extractor_tasks import ExtractorTasks, in_completion_order
from lbae.io.artifacts.bundle_artifact import load_bundle
from lbae.io.artifacts.moments_artifact import load_moments
from lbae.io.sources.decode import decode_every
from lbae.io.sources.plan import plan
from lbae.io.storage.location import resolve
from lbae.jobs.build.evaluate import evaluate
from lbae.report.evaluation.cache import Cache
from lbae.report.evaluation.feature_extraction import FeatureExtractor
from lbae.report.evaluation.settings import make_priors
from tests.benchmarks.conftest import untrained
from tests.conftest import SAMPLE

CPUS = 2
PRIORS = ("mixture", "hyperplane", "gaussian", "direct", "independent")


@contextmanager
def cluster() -> Iterator[None]:
    """A new Ray, which has no processes of earlier jobs."""
    ray.init(address="local", num_cpus=CPUS, object_store_memory=2**30, log_to_driver=False)
    yield
    ray.shutdown()


def process(_: FeatureExtractor) -> int:
    """The id of this process, after a wait that leaves the next task to another one."""
    time.sleep(0.1)
    return os.getpid()


def start_up(extractor: FeatureExtractor) -> float:
    """Seconds until a process per CPU has started, loaded the extractor, and answered."""
    with cluster():
        started, answered = time.perf_counter(), set[int]()
        tasks = ExtractorTasks(extractor)
        for answer in in_completion_order([tasks.start(process) for _ in range(1000)]):
            answered.add(answer)
            if len(answered) == CPUS:
                return time.perf_counter() - started
    raise AssertionError(f"only {len(answered)} processes started")


def bare(extractor: FeatureExtractor) -> float:
    """Seconds for encoding, sampling, decoding and features of the same images in this process."""
    torch.set_num_threads(CPUS)
    bundle, started = extractor.bundle, time.perf_counter()
    images = np.concatenate([part.images for part in decode_every(plan(str(SAMPLE)), bundle.codec.config)])
    latents = bundle.encode(images)
    middles = interpolate(bundle.normals, np.concatenate([latents, latents[:1]]), 3)[1::2]
    for drawn in (latents, middles, *(prior.sample(len(images), 0) for prior in extractor.priors.values())):
        extractor.network.features(bundle.decode(drawn))
    return time.perf_counter() - started


def test_evaluation(tmp_path):
    made, cache = untrained(tmp_path, "mnist"), tmp_path / "cache"
    given = {name: made[name] for name in ("bundle", "latents", "moments")}
    given |= {"data": str(SAMPLE), "train_data": str(SAMPLE), "priors": list(PRIORS), "cache": str(cache)}

    def run(name: str) -> tuple[float, float, float]:
        """Seconds of the whole job, of feature extraction, and of the work that only the driver does."""
        with cluster():
            started = time.perf_counter()
            evaluate(out=str(tmp_path / name), **given)
            whole = time.perf_counter() - started
        seconds = json.loads((tmp_path / name / "report.json").read_text())["seconds"]
        return (
            whole,
            seconds["features"],
            whole - sum(seconds[part] for part in ("networks", "features", "compare")),
        )

    first, *_ = run("first")
    entry = json.loads(next((cache / "classifiers").glob("*.json")).read_text())
    classifier, _ = Cache(resolve(str(cache))).classifier(entry["made_of"])
    bundle, moments = load_bundle(made["bundle"], "cpu"), load_moments(made["moments"])[0]
    extractor = FeatureExtractor(
        bundle=bundle,
        priors=make_priors(PRIORS, bundle, moments),
        network=classifier,
        classifier=classifier,
        lpips=None,
        rules="ours",
        samples=0,
        seed=0,
    )
    starts, bases, again = [start_up(extractor)], [bare(extractor)], []
    for turn in range(3):
        again.append(run(f"again-{turn}"))
        starts.append(start_up(extractor))
        bases.append(bare(extractor))
    whole, extraction, alone = zip(*again, strict=True)
    print(f"\nevaluation: {first:.1f} s with an empty cache, then {min(whole):.1f} to {max(whole):.1f} s")
    around = [(before + after) / 2 for before, after in itertools.pairwise(bases)]
    parts = {"the job": whole, "the job without its start": [s - min(starts) for s in whole]}
    for name, seconds in (parts | {"features": extraction}).items():
        ratios = [s / base for s, base in zip(seconds, around, strict=True)]
        print(f"{name}: {min(ratios):.2f} to {max(ratios):.2f} times the bare work before and after it")
    for name, seconds in (("a start", starts), ("the bare work", bases)):
        print(f"{name} takes {min(seconds):.1f} to {max(seconds):.1f} s")
    shares = [driver / seconds for driver, seconds in zip(alone, whole, strict=True)]
    print(f"only the driver works during {min(shares):.0%} to {max(shares):.0%} of the time")
