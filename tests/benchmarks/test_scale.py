"""The cost of one image in the network, and how the time of the stages grows with the number of images.

A line through the times of two sizes predicts the time of a third. ``docs/scaling.md`` uses these figures.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from torch.utils.flop_counter import FlopCounterMode

from lbae import presets
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.network.codec import Codec, best_precision
from lbae.io.artifacts.model_artifact import save_model
from lbae.io.artifacts.output import Output
from lbae.io.storage.location import resolve
from lbae.jobs.build.encode import encode
from lbae.jobs.build.fit import fit
from lbae.jobs.build.reduce import reduce
from tests.benchmarks.conftest import smooth_images

SIZES = (6_000, 18_000, 54_000)
COMPONENTS = "10"
ROUNDS, ROWS = 5, 128


def stored(uri: str) -> int:
    """Size of an artifact's files in bytes."""
    return sum(info["size"] for _, info in resolve(uri).files())


@pytest.mark.parametrize("preset", ["mnist", "cifar10", "celeba", "celeba128", "celeba256"])
def test_cost_of_one_image(preset: str) -> None:
    torch.set_num_threads(1)
    config = presets.get(preset).model
    codec = Codec(LatentBernoulliAutoencoder(config), best_precision(torch.device("cpu")))
    images = np.random.default_rng(0).integers(0, 256, (ROWS, *config.image_shape), dtype=np.uint8)
    latents = codec.encode(images)
    for name, work, rows in (("encode", codec.encode, images), ("decode", codec.decode, latents)):
        with FlopCounterMode(display=False) as counter:
            work(rows[: codec.rows])
        seconds = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            work(rows)
            seconds.append(time.perf_counter() - started)
        low, middle, high = (
            1e6 * at / ROWS for at in (min(seconds), statistics.median(seconds), max(seconds))
        )
        operations = counter.get_total_flops() / codec.rows / 1e9
        print(
            f"\n{preset}, {name}: {operations:.2f} GFLOP, {middle:.0f} ({low:.0f} to {high:.0f})"
            f" microseconds on one core"
        )


def test_stages_are_linear_in_the_images(tmp_path: Path) -> None:
    config = presets.get("cifar10")
    model = str(tmp_path / "model")
    network = LatentBernoulliAutoencoder(config.model, torch.Generator().manual_seed(0))
    save_model(Output(model, "model", parents={}, config=config.to_dict()), network, config, {"images": 0})
    ray.init(address="local", num_cpus=2, object_store_memory=2**30, log_to_driver=False)
    seconds: dict[str, list[float]] = {"encode": [], "reduce": [], "fit": []}
    for count in (min(SIZES), *SIZES):  # the first round only starts Ray's workers
        data = smooth_images(tmp_path / str(count) / "data.parquet", count)
        made = {name: f"{tmp_path}/{count}/{name}" for name in ("latents", "moments")}
        bundle = f"{tmp_path}/{count}/bundle"
        stages: dict[str, tuple[Callable[..., object], dict[str, str]]] = {
            "encode": (encode, {"model": model, "data": str(data), "out": made["latents"]}),
            "reduce": (reduce, {"latents": made["latents"], "out": made["moments"]}),
            "fit": (fit, {"model": model, **made, "out": bundle, "components": COMPONENTS}),
        }
        for name, (stage, options) in stages.items():
            started = time.perf_counter()
            stage(**options, overwrite=True)
            seconds[name].append(time.perf_counter() - started)
        print(
            f"\n{count:,} images: "
            + ", ".join(
                f"{name} {stored(uri) / 2**20:.1f} MiB" for name, uri in (*made.items(), ("bundle", bundle))
            )
        )
    ray.shutdown()
    for name, (_, small, middle, large) in seconds.items():
        each = (middle - small) / (SIZES[1] - SIZES[0])
        fixed = small - each * SIZES[0]
        guess = fixed + each * SIZES[2]
        print(
            f"{name}: {fixed:.1f} s + {1e6 * each:.0f} s per million images; {SIZES[2]:,} images: predicted"
            f" {guess:.1f} s, took {large:.1f} s"
        )
