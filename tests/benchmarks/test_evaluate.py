"""An evaluation of 10,000 images and five priors against the bare work of it in one process, both on two cores."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import torch

from lbae.core.interpolation import interpolate
from lbae.core.samplers import fit
from lbae.distributed.evaluate import evaluate
from lbae.io.bundle import load_bundle
from lbae.io.decode import decode_every
from lbae.io.moments import load_moments
from lbae.io.source import plan
from lbae.report.classifier import load_classifier
from tests.benchmarks.conftest import untrained
from tests.conftest import SAMPLE

PRIORS = ("mixture", "hyperplane", "gaussian", "direct", "independent")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, object_store_memory=2**30, log_to_driver=False)
    yield
    ray.shutdown()


def bare(made: dict[str, str], cache: Path) -> float:
    """Seconds for encoding, sampling, decoding and features of all that the evaluation looks at."""
    torch.set_num_threads(2)
    bundle, moments = load_bundle(made["bundle"], "cpu"), load_moments(made["moments"])[0]
    priors = {name: bundle.prior if name == "mixture" else fit(name, moments) for name in PRIORS}
    classifier, _ = load_classifier(str(next((cache / "classifiers").iterdir())))
    started = time.perf_counter()
    images = np.concatenate([part.images for part in decode_every(plan(str(SAMPLE)), bundle.codec.config)])
    latents = bundle.encode(images)
    middles = interpolate(bundle.normals, np.concatenate([latents, latents[:1]]), 3)[1::2]
    for drawn in (latents, middles, *(prior.sample(len(images), 0) for prior in priors.values())):
        classifier.features(bundle.decode(drawn))
    return time.perf_counter() - started


def test_evaluation(tmp_path):
    made, cache = untrained(tmp_path, "mnist"), tmp_path / "cache"
    few = tmp_path / "few.parquet"
    pq.write_table(pq.read_table(SAMPLE / "part-00000.parquet").slice(0, 200), few)
    given = {name: made[name] for name in ("bundle", "latents", "moments")}
    given |= {"train_data": str(SAMPLE), "priors": ",".join(PRIORS), "cache": str(cache)}

    def seconds(name: str, data: object) -> float:
        """All but the start of Ray and the page."""
        report = tmp_path / name / "report.json"
        evaluate(data=str(data), out=str(tmp_path / name), **given)
        return sum(json.loads(report.read_text())["seconds"].values())

    first = seconds("first", SAMPLE)
    start = seconds("few", few)
    before, again, after = bare(made, cache), seconds("again", SAMPLE), bare(made, cache)
    print(
        f"\nevaluation: {first:.1f} s, with its cache {again:.1f} s ({1 - again / first:.0%} less), few images {start:.1f} s"
    )
    ratios = sorted((again - start) / base for base in (before, after))
    print(f"less the start {ratios[0]:.2f} to {ratios[1]:.2f} times the bare work ({before:.1f} and {after:.1f} s)")
