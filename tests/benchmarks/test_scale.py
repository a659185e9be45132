"""The cost of one image in the network, and how time and memory of the stages grow with the images.

docs/guides/large-corpora.md uses these figures.
"""

import dataclasses
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lbae import presets
from lbae.config import ModelConfig
from lbae.core.latents.packing import packed_width
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.network.codec import Codec, best_precision
from lbae.io.artifacts.latent_parts import publish_latents, rows_per_part
from lbae.io.artifacts.latent_table import latent_rows, rows_digest
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.artifacts.model_artifact import save_model
from lbae.io.artifacts.output import Output
from lbae.io.artifacts.written_part import Part
from lbae.io.storage.parquet_file import write_parquet
from tests.benchmarks.conftest import smooth_images
from tests.conftest import ROOT

SIZES = tuple(int(os.environ.get("LBAE_BENCH_ROWS", 1_000_000)) // share for share in (100, 10, 1))
NETWORK = ModelConfig(latent_dim=600, channels=(16, 64, 128))  # fast, so that the stages' own costs show
COMPONENTS = "10"
# Most times the seconds at ten times the images. An index has more lists, too.
LINEAR, GROWTH = 10, {"fit": 2, "index": 32}
# Most megabytes more. A fit holds a sample of 60,000 rows, so all rows of the smallest corpus.
MORE_MB, MORE = 200, {"fit": 600}
DIGIT = ROOT / "docs" / "images" / "seven.png"
ROUNDS, ROWS = 5, 128
# The system's own count of a finished child's memory includes that of its parent before the program started.
WITH_PEAK = """
import runpy, sys

sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    with open("/proc/self/status") as status:
        print(next(line for line in status if line.startswith("VmHWM")), file=sys.stderr)
"""


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


def stand_in(model: str, out: str, count: int) -> None:
    """Publish a table of random latents, as if a model had encoded ``count`` images."""
    fingerprint, bits = read_manifest(model).fingerprint, NETWORK.latent_dim
    settings = {"latent_dim": bits, "keep_images": False}
    output = Output(out, "latent table", parents={"model": fingerprint, "data": str(count)}, config=settings)
    output.begin()
    rng, parts, length = np.random.default_rng(0), [], rows_per_part(count)
    for first in range(0, count, length):
        numbers = np.arange(first, min(first + length, count))
        packed = rng.integers(0, 256, (len(numbers), packed_width(bits)), dtype=np.uint8)
        columns = pa.table({"label": numbers % 10})
        keys = pa.array([f"images/{number:012d}.png" for number in numbers])
        rows = latent_rows(keys, packed, columns, bits, fingerprint, NETWORK.latent_grid)
        name = f"data/part-001-{first // length:05d}.parquet"
        write_parquet(out, name, rows)
        digest, encoder = rows_digest(rows.schema.metadata), ("cpu", "float32")
        parts.append(Part(files=(name,), rows=len(rows), digest=digest, encoder=encoder))
    publish_latents(output, parts, None, {"model": model})


def job(name: str, *options: str) -> tuple[float, float]:
    """Run a job in a process of its own; return its seconds and the most memory of the process in MB."""
    command = [sys.executable, "-c", WITH_PEAK, str(ROOT / "jobs" / f"{name}.py"), *options]
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, (command, done.stderr)
    return time.perf_counter() - started, int(done.stderr.split()[-2]) / 1000


def stages(out: Path, model: str, count: int) -> Iterator[tuple[str, tuple[float, float]]]:
    """Every stage on ``count`` images, with its seconds and MB. A table of the largest size is a stand-in."""
    latents, moments = f"{out}/{count}/latents", f"{out}/{count}/moments"
    if count == SIZES[-1]:
        stand_in(model, latents, count)
    else:
        data = str(smooth_images(out / str(count) / "images" / "data.parquet", count))
        yield "encode", job("encode", "--model", model, "--data", data, "--out", latents)
    yield "reduce", job("reduce", "--latents", latents, "--out", moments)
    inputs = ("--model", model, "--latents", latents, "--moments", moments)
    yield "fit", job("fit", *inputs, "--out", f"{out}/{count}/bundle", "--components", COMPONENTS)
    yield "show", job("show", latents)
    yield "search", job("search", "--latents", latents, "--image", str(DIGIT))
    yield "index", job("index", "--latents", latents, "--out", f"{out}/{count}/index")
    indexed = ("--index", f"{out}/{count}/index")
    yield "search by index", job("search", "--latents", latents, *indexed, "--image", str(DIGIT))


def test_no_part_grows_faster_than_the_corpus(tmp_path: Path) -> None:
    """Ten times the images take at most ten times the time, and a fit of a sample less.

    A quadratic part would take a hundred times its share. The memory of the job's process does not grow with
    the images.
    """
    config = dataclasses.replace(presets.get("cifar10"), model=NETWORK)
    model = str(tmp_path / "model")
    network = LatentBernoulliAutoencoder(config.model, torch.Generator().manual_seed(0))
    save_model(Output(model, "model", parents={}, config=config.to_dict()), network, config, {"images": 0})
    found = {count: dict(stages(tmp_path, model, count)) for count in SIZES}
    for count, of in found.items():
        parts = ", ".join(f"{name} {seconds:.1f} s, {most:.0f} MB" for name, (seconds, most) in of.items())
        print(f"\n{count:,} images: {parts}")
    for before, after in itertools.pairwise(found.values()):
        for name in before.keys() & after.keys():
            (seconds, most), (longer, more) = before[name], after[name]
            assert longer <= GROWTH.get(name, LINEAR) * seconds, (name, found)
            assert more <= most + MORE.get(name, MORE_MB), (name, found)
