"""Shared fixtures: one local Ray for the whole run, a small image folder, a small trained pipeline."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from PIL import Image

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "lbae" / "sample" / "mnist"

settings.register_profile("lbae", deadline=None)
settings.load_profile("lbae")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[str]:
    """A local Ray with two logical CPUs; jobs started in subprocesses join it through RAY_ADDRESS."""
    import ray

    context = ray.init(address="local", num_cpus=2, object_store_memory=2**30, log_to_driver=False)
    address = context.address_info["address"]
    os.environ["RAY_ADDRESS"] = address
    yield address
    del os.environ["RAY_ADDRESS"]
    ray.shutdown()


@dataclass(frozen=True)
class Outcome:
    """What a job's process left behind."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The last line of standard error."""
        return self.err.strip().splitlines()[-1] if self.err.strip() else ""


@pytest.fixture(scope="session")
def job() -> Callable[..., Outcome]:
    """Run ``python jobs/NAME.py ARGUMENTS`` as a user does."""

    def run(name: str, *arguments: object) -> Outcome:
        command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, check=False)
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image table of 600 digits in two files of several row groups."""
    folder = tmp_path_factory.mktemp("digits")
    table = pq.read_table(SAMPLE / "part-00000.parquet").slice(0, 600)
    pq.write_table(table.slice(0, 350), folder / "a.parquet", row_group_size=100)
    pq.write_table(table.slice(350), folder / "b.parquet", row_group_size=100)
    return folder


@pytest.fixture(scope="session")
def folder_of_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of colour images of several sizes."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for index in range(40):
        kind = "dark" if index % 2 else "light"
        pixels = rng.integers(0, 100, (30 + index, 45, 3)) + (0 if index % 2 else 150)
        path = root / kind / f"{index:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


@dataclass(frozen=True)
class Pipeline:
    """URIs and results of one run of all stages."""

    data: Path
    model: str
    latents: str
    moments: str
    bundle: str
    results: dict[str, dict[str, Any]]


@pytest.fixture(scope="session")
def pipeline(ray_session: str, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A model trained for three epochs by two workers, its latents, moments and bundle."""
    from lbae.distributed.encode import encode
    from lbae.distributed.fit import fit
    from lbae.distributed.reduce import reduce
    from lbae.distributed.train import train

    root = tmp_path_factory.mktemp("pipeline")
    model, latents, moments, bundle = (str(root / name) for name in ("model", "latents", "moments", "bundle"))
    results = {
        "train": train(data=str(digits), out=model, preset="demo", epochs=3, workers=2, batch_size=16),
        "encode": encode(model=model, data=str(digits), out=latents),
        "reduce": reduce(latents=latents, out=moments),
        "fit": fit(model=model, latents=latents, moments=moments, out=bundle, components="3"),
    }
    return Pipeline(digits, model, latents, moments, bundle, results)


def image_table(path: Path, cells: list[bytes | None], **columns: list[Any]) -> None:
    """Write an image table with these image bytes."""
    images = [{"bytes": data, "path": f"{index}.png"} for index, data in enumerate(cells)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(images, kind), **columns}), path)


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height of an image file."""
    with Image.open(path) as image:
        return image.size
