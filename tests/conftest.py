"""Shared fixtures: one local Ray for the whole run, a small image folder, a small trained pipeline."""

import io
import itertools
import json
import logging
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from hypothesis import settings
from moto.server import ThreadedMotoServer
from PIL import Image

from lbae.core.latents.packing import pack
from lbae.io.artifacts.latent_table import KIND, latent_rows
from lbae.io.artifacts.output import Output
from lbae.io.storage.digests import digest
from lbae.io.storage.parquet_file import write_parquet

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "lbae" / "sample" / "mnist"
SECRET = "a-key-that-nobody-may-read"
# Ray declares a node dead after five refused health checks, by default 3 s apart. A slow node still has 10 s
# per check.
QUICK_DEATH = {"RAY_health_check_period_ms": "500"}

settings.register_profile("lbae", deadline=None)
settings.load_profile("lbae")
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # tests send nothing off this machine


@pytest.fixture(scope="session")
def ray_session() -> Iterator[str]:
    """A local Ray with two logical CPUs; jobs started in subprocesses join it through RAY_ADDRESS."""
    import ray

    # Like `source .venv/bin/activate`: jobs and `ray job submit` find the python of this run.
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    context = ray.init(address="local", num_cpus=2, object_store_memory=2**30, log_to_driver=False)
    address = context.address_info["address"]
    os.environ["RAY_ADDRESS"] = address
    yield address
    del os.environ["RAY_ADDRESS"]
    ray.shutdown()


@dataclass(frozen=True)
class Outcome:
    """The exit code of a job and what it printed."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The last line of standard error."""
        return self.err.strip().splitlines()[-1] if self.err.strip() else ""


def run_job(name: str, *arguments: object) -> Outcome:
    """Run ``python jobs/NAME.py ARGUMENTS`` in this process, because a new one takes seconds to start."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        try:
            runpy.run_path(str(ROOT / "jobs" / f"{name}.py"), run_name="__main__")
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def job(ray_session: str) -> Callable[..., Outcome]:
    """:func:`run_job` with a Ray to join."""
    return run_job


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image table of 600 digits in two files of several row groups."""
    folder = tmp_path_factory.mktemp("digits")
    table = pq.read_table(SAMPLE / "part-00000.parquet").slice(0, 600)
    pq.write_table(table.slice(0, 350), folder / "a.parquet", row_group_size=100)
    pq.write_table(table.slice(350), folder / "b.parquet", row_group_size=100)
    return folder


@pytest.fixture(scope="session")
def encoded_digits(ray_session: str, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Latents of the digits from an untrained LBAE."""
    import torch

    from lbae import presets
    from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
    from lbae.io.artifacts.model_artifact import save_model
    from lbae.jobs.build.encode import encode

    out, config = tmp_path_factory.mktemp("encoded"), presets.get("demo", "modern")
    network = LatentBernoulliAutoencoder(config.model, torch.Generator().manual_seed(0))
    output = Output(str(out / "model"), "model", parents={}, config=config.to_dict())
    save_model(output, network, config, {"images": 0})
    encode(model=str(out / "model"), data=str(digits), out=str(out / "latents"))
    return str(out / "latents")


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


def write_latents(
    uri: Path | str,
    latents: np.ndarray,
    columns: dict[str, list] | None = None,
    *,
    parts: int = 3,
    **options: Any,
) -> str:
    """Publish a latent table with keys k0, k1, ...; its part files have row groups of at most 100 rows."""
    return write_packed(uri, pack(latents), latents.shape[1], columns, parts=parts, **options)


def write_packed(
    uri: Path | str,
    packed: np.ndarray,
    latent_dim: int,
    columns: dict[str, list] | None = None,
    *,
    parts: int,
    model: str = "m1",
    row_group: int = 100,
    numbers: np.ndarray | None = None,
) -> str:
    """Like :func:`write_latents` for packed latents, with keys from ``numbers`` if given."""
    uri, rest, files = str(uri), pa.table(columns or {}), []
    numbers = np.arange(len(packed)) if numbers is None else numbers
    edges = np.linspace(0, len(packed), parts + 1).astype(int)
    for index, (first, last) in enumerate(itertools.pairwise(edges)):
        keys = pa.array([f"k{i}" for i in numbers[first:last]], pa.string())
        part = latent_rows(keys, packed[first:last], rest.slice(first, last - first), latent_dim, model)
        files.append(f"data/part-{index:05d}.parquet")
        lengths = [min(row_group, last - start) for start in range(first, last, row_group)]
        write_parquet(uri, files[-1], part, lengths)
    output = Output(uri, KIND, parents={"model": model, "data": "d"}, config={"latent_dim": latent_dim})
    output.publish(
        fingerprint=digest(packed.tobytes(), repr(columns).encode(), model.encode()),
        rows=len(packed),
        files=files,
        result={"precision": "float32"},
    )
    return uri


def readme_blocks(language: str, page: str = "README.md") -> list[str]:
    """Return the code blocks of a page in a language, with continued lines as one."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    return [block.replace("\\\n", "") for block in blocks]


def run_readme(block: str, out: Path | str, images: Path, **others: Path | str) -> list[dict[str, Any]]:
    """Run the jobs in a block of the README or a guide; return the last JSON object that each prints.

    Only $OUT, $IMAGES and ``others`` are filled in.
    """
    results = []
    for line in block.splitlines():
        if line.startswith("lbae "):
            filled = Template(line).substitute(OUT=out, IMAGES=images, **others)
            _, name, *arguments = shlex.split(filled, comments=True)
            done = run_job(name, *arguments)
            assert done.code == 0, done.err
            results.append(json.loads(done.out.splitlines()[-1]))
    return results


@dataclass(frozen=True)
class Pipeline:
    """The artifacts that four jobs made from the digits, and what the jobs printed."""

    data: Path
    out: Path
    results: list[dict[str, Any]]

    @property
    def model(self) -> str:
        return str(self.out / "model")

    @property
    def latents(self) -> str:
        return str(self.out / "latents")

    @property
    def moments(self) -> str:
        return str(self.out / "moments")

    @property
    def bundle(self) -> str:
        return str(self.out / "bundle")

    @property
    def made_from(self) -> dict[str, str]:
        """Arguments of ``fit``."""
        return {"model": self.model, "latents": self.latents, "moments": self.moments}


@pytest.fixture(scope="session")
def pipeline(ray_session: str, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A model, latents, moments and a bundle of 600 digits, trained by two workers."""
    out = tmp_path_factory.mktemp("pipeline")
    made = Pipeline(digits, out, [])
    inputs = ("--model", made.model, "--latents", made.latents, "--moments", made.moments)
    for name, *arguments in (
        ("train", "--preset", "demo", "--data", digits, "--out", made.model, "--epochs", 12, "--workers", 2),
        ("encode", "--model", made.model, "--data", digits, "--out", made.latents),
        ("reduce", "--latents", made.latents, "--out", made.moments),
        ("fit", *inputs, "--out", made.bundle),
    ):
        done = run_job(name, *arguments)
        assert done.code == 0, done.err
        made.results.append(json.loads(done.out.splitlines()[-1]))
    return made


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket on a local S3 server, for this process and the jobs that it starts."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "ACCESS_KEY_ID": "test",
        "SECRET_ACCESS_KEY": SECRET,
        "DEFAULT_REGION": "us-east-1",
        "ENDPOINT_URL": f"http://{host}:{port}",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    httpx.post(f"http://{host}:{port}/moto-api/reset")
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("bucket")
    yield "s3://bucket"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@contextmanager
def service(*arguments: str) -> Iterator[dict[str, Any]]:
    """Run ``python jobs/serve.py ARGUMENTS``: yield the JSON that it prints, and end it as Ctrl-C does."""
    command = [sys.executable, str(ROOT / "jobs" / "serve.py"), *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield json.loads(line)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    finally:
        # After a failed test: a killed process would leave its Serve running, on the CPUs of the next test.
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate()


def image_table(
    path: Path, cells: list[bytes | None], row_group_size: int | None = None, **columns: list[Any]
) -> None:
    """Write an image table with these image bytes."""
    images = [{"bytes": data, "path": f"{index}.png"} for index, data in enumerate(cells)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table({"image": pa.array(images, kind), **columns}), path, row_group_size=row_group_size
    )


def write_tar(path: Path, members: dict[str, bytes] | list[tuple[str, bytes]], **links: str) -> None:
    """Write a tar of members by name, then hard links, or symbolic ones for names in a folder."""
    with tarfile.open(path, "w") as tar:
        for name, data in members.items() if isinstance(members, dict) else members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for link, target in links.items():
            info = tarfile.TarInfo(f"{link}.png")
            info.type, info.linkname = tarfile.LNKTYPE if "/" not in link else tarfile.SYMTYPE, target
            tar.addfile(info)


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height of an image file."""
    with Image.open(path) as image:
        return image.size
