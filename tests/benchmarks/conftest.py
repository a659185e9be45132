"""What all benchmarks share: inputs, a busy process, peak memory, and the comparison with a baseline."""

import dataclasses
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lbae import presets
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.io.artifacts.model_artifact import save_model
from lbae.io.artifacts.output import Output
from lbae.io.images import encode_png
from lbae.jobs.build.encode import encode
from lbae.jobs.build.fit import fit
from lbae.jobs.build.reduce import reduce
from tests.conftest import SAMPLE, image_table

ROUNDS = 7


def smooth_images(path: Path, count: int) -> Path:
    """Write an image table of smooth noise, as PNGs of 32 x 32 pixels."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 255, (count, 3, 8, 8))).float()
    smooth = torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear").permute(0, 2, 3, 1)
    image_table(path, [encode_png(image) for image in smooth.to(torch.uint8).numpy()], row_group_size=1000)
    return path


def untrained(out: Path, preset: str, components: str = "50", **changes: Any) -> dict[str, str]:
    """Publish an untrained model of a preset, and its latents, moments and bundle of the bundled digits.

    ``changes`` are fields of the preset's network.

    Returns:
        Their URIs by name.
    """
    config = presets.get(preset)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **changes))
    made = {name: str(out / name) for name in ("model", "latents", "moments")}
    output = Output(made["model"], "model", parents={}, config=config.to_dict())
    save_model(output, LatentBernoulliAutoencoder(config.model), config, {"images": 0})
    encode(model=made["model"], data=str(SAMPLE), out=made["latents"])
    reduce(latents=made["latents"], out=made["moments"])
    fit(**made, out=str(out / "bundle"), components=components)
    return {**made, "bundle": str(out / "bundle")}


def peak(process: Path) -> int:
    """The peak resident memory of a process, in MB."""
    line = next(line for line in (process / "status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


@contextmanager
def busy_neighbour() -> Iterator[None]:
    """Run another process that keeps one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def compare(request: pytest.FixtureRequest) -> Callable[..., None]:
    """``compare(work, baseline, meaning)`` prints how many times faster the work is than the baseline.

    The two take turns in seven rounds; the median, least and greatest ratio are printed.
    """

    def run(work: Callable[[], object], baseline: Callable[[], object], meaning: str) -> None:
        work(), baseline()
        ratios, spent = [], []
        for _ in range(ROUNDS):
            seconds = []
            for call in (work, baseline):
                started = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - started)
            ratios.append(seconds[1] / seconds[0])
            spent.append(seconds[0])
        low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
        name = request.node.name.removeprefix("test_")
        print(
            f"\n{name}: {middle:.2f} times {meaning} ({low:.2f} to {high:.2f};"
            f" {statistics.median(spent):.3f} s)"
        )

    return run
