"""An evaluation of 10,000 images and five priors against the bare work of it in one process, both on two cores."""

import json
import shutil
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ray
import ray.data
import torch

from lbae.core.interpolation import interpolate
from lbae.distributed.evaluate import evaluate
from lbae.distributed.session import RUNS_A_NETWORK
from lbae.distributed.tasks import answered, outcomes, over
from lbae.io.bundle import load_bundle
from lbae.io.decode import decode_every
from lbae.io.moments import load_moments
from lbae.io.plan import plan
from lbae.io.storage import resolve
from lbae.report.evaluation import make_priors
from lbae.report.looks import Looker
from lbae.report.references import Cache
from tests.benchmarks.conftest import untrained
from tests.conftest import SAMPLE

PRIORS = ("mixture", "hyperplane", "gaussian", "direct", "independent")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, object_store_memory=2**30, log_to_driver=False)
    yield
    ray.shutdown()


class Idle:
    """An actor that holds what those of an evaluation hold, and does nothing."""

    def __init__(self, looker: ray.ObjectRef) -> None:
        self.looker = ray.get(looker).to("cpu")

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return answered(row, lambda task: task)


def start_up(looker: Looker) -> float:
    """Seconds until two such actors have answered."""
    started = time.perf_counter()
    pool = {"compute": ray.data.ActorPoolStrategy(size=2), "num_cpus": 1, "runtime_env": RUNS_A_NETWORK}
    list(outcomes(over(range(4), Idle, fn_constructor_kwargs={"looker": ray.put(looker)}, **pool)))
    return time.perf_counter() - started


def bare(looker: Looker) -> float:
    """Seconds for encoding, sampling, decoding and features of all that the evaluation looks at, in this process."""
    torch.set_num_threads(2)
    bundle, started = looker.bundle, time.perf_counter()
    images = np.concatenate([part.images for part in decode_every(plan(str(SAMPLE)), bundle.codec.config)])
    latents = bundle.encode(images)
    middles = interpolate(bundle.normals, np.concatenate([latents, latents[:1]]), 3)[1::2]
    for drawn in (latents, middles, *(prior.sample(len(images), 0) for prior in looker.priors.values())):
        looker.extractor.features(bundle.decode(drawn))
    return time.perf_counter() - started


def test_evaluation(tmp_path):
    made, cache = untrained(tmp_path, "mnist"), tmp_path / "cache"
    given = {name: made[name] for name in ("bundle", "latents", "moments")}
    given |= {"data": str(SAMPLE), "train_data": str(SAMPLE), "priors": ",".join(PRIORS), "cache": str(cache)}

    def run(name: str) -> tuple[float, float]:
        """Seconds of the whole job, and those in which only the driver works."""
        started = time.perf_counter()
        evaluate(out=str(tmp_path / name), **given)
        whole = time.perf_counter() - started
        seconds = json.loads((tmp_path / name / "report.json").read_text())["seconds"]
        return whole, whole - sum(seconds[part] for part in ("networks", "look", "compare"))

    run("trains the classifier")
    entry = json.loads(next((cache / "classifiers").glob("*.json")).read_text())
    classifier, _ = Cache(resolve(str(cache))).classifier(entry["made_of"])
    bundle, moments = load_bundle(made["bundle"], "cpu"), load_moments(made["moments"])[0]
    looker = Looker(
        bundle=bundle,
        priors=make_priors(PRIORS, bundle, moments),
        extractor=classifier,
        classifier=classifier,
        lpips=None,
        rules="ours",
        samples=0,
        seed=0,
    )
    starts, bases, fresh, again, alone = [start_up(looker)], [bare(looker)], [], [], []
    for turn in range(2):
        shutil.rmtree(cache / "features")
        for name, runs in (("fresh", fresh), ("again", again)):
            whole, driver = run(f"{name}-{turn}")
            runs.append(whole)
            alone.append(driver / whole)
        starts.append(start_up(looker))
        bases.append(bare(looker))
    saved = [1 - after / before for before, after in zip(fresh, again, strict=True)]
    ratios = sorted((seconds - start) / base for seconds in again for start, base in zip(starts, bases, strict=True))
    print(
        f"\nevaluation: {min(fresh):.1f} s, with cached references {min(again):.1f} s"
        f" ({min(saved):.0%} to {max(saved):.0%} less)"
    )
    print(
        f"less the start of actors ({min(starts):.1f} s) {ratios[0]:.2f} to {ratios[-1]:.2f} times the bare work"
        f" ({min(bases):.1f} s)"
    )
    print(f"only the driver works for {min(alone):.0%} to {max(alone):.0%} of the time")
