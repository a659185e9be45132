"""The service under load from a second process, compared with bare work and a hello-world deployment.

The bundles hold untrained networks of the presets and 50 components fitted to latents of the bundled digits.
Their requests take as long as those of trained bundles.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from lbae.core.bundle import Bundle
from lbae.distributed.cluster.torch_env import TORCH_RUNTIME_ENV
from lbae.distributed.serve.haproxy import controller_options
from lbae.distributed.serve.service import serving
from lbae.io.artifacts.bundle_artifact import load_bundle
from lbae.io.images import encode_png, square_grid
from lbae.web.client import Client, edit, interpolate, sample
from tests.benchmarks.conftest import busy_neighbour, untrained
from tests.distributed.soak import megabytes

PORT, N, CONCURRENCY, REQUESTS = 18126, 16, 16, 160
REPLICAS = {"fused": 2, "split": 6}  # including the replica of the registry


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, object_store_memory=2**30, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module", params=["mnist", "cifar10"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return untrained(tmp_path_factory.mktemp(request.param), request.param)["bundle"]


def load(path: str, concurrency: int, n: int, count: int) -> dict[str, float]:
    arguments = [f"http://127.0.0.1:{PORT}{path}", *map(str, (concurrency, n, count))]
    command = [sys.executable, "-m", "tests.benchmarks.load", *arguments]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout)


def bare(bundle: Bundle, requests: int, n: int) -> float:
    """Seconds for sampling, decoding in full batches and writing grids in this process."""
    started = time.perf_counter()
    together = max(1, bundle.codec.rows // n)
    for first in range(0, requests, together):
        images = bundle.decode(np.concatenate([bundle.prior.sample(n, first + j) for j in range(together)]))
        for j in range(together):
            encode_png(square_grid(images[j * n : (j + 1) * n]))
    return time.perf_counter() - started


def cpu_seconds() -> float:
    """CPU seconds used so far by all running processes of this machine."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            ticks += sum(map(int, stat.read_text().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def hello(answer: bytes, replicas: int) -> Iterator[float]:
    """Serve replicas that import torch and answer at once, behind the same proxy; yield the start-up time."""

    @serve.deployment(max_ongoing_requests=100, num_replicas=replicas, ray_actor_options={"num_cpus": 0})
    class Hello:
        def __init__(self) -> None:
            import torch  # noqa: F401

        async def __call__(self, request: Request) -> Response:
            await request.json()
            return Response(answer)

    started = time.perf_counter()
    serve.start(
        http_options={"host": "127.0.0.1", "port": PORT}, controller_options=controller_options("127.0.0.1")
    )
    serve.run(Hello.bind(), name="hello", route_prefix="/")
    yield time.perf_counter() - started
    serve.shutdown()


@pytest.mark.parametrize("topology", ["fused", "split"])
def test_serving(bundle, topology):
    held = load_bundle(bundle, "cpu")
    with hello(encode_png(square_grid(held.sample(N, 0))), REPLICAS[topology]) as hello_seconds:
        hello_ms = load("/", 1, 1, 50)["p50"]
        hello_many = load("/", CONCURRENCY, N, REQUESTS)["images_per_second"]
    started = time.perf_counter()
    with serving(bundle, PORT, replicas=1, topology=topology):
        ready_seconds = time.perf_counter() - started
        load("/v1/sample", 2, N, 8)
        bare(held, 8, N)
        single_ms = statistics.median(1000 * bare_one(held, seed) for seed in range(20))
        one = load("/v1/sample", 1, 1, 40)
        ratios, ceilings, cpu, many = [], [], [], {}
        for _ in range(3):
            before = cpu_seconds()
            many = load("/v1/sample", CONCURRENCY, N, REQUESTS)
            cpu.append(1000 * (cpu_seconds() - before) / REQUESTS)
            bare_many = REQUESTS * N / bare(held, REQUESTS, N)
            ratios.append(many["images_per_second"] / bare_many)
            ceilings.append(1 / (1 + bare_many / hello_many))
        with busy_neighbour():
            beside = load("/v1/sample", CONCURRENCY, N, REQUESTS)
    print(
        f"\n{Path(bundle).parent.name} {topology}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to"
        f" {max(ratios):.2f})"
        f" of the bare loop's images per second ({statistics.median(ceilings):.2f} if requests cost the bare"
        f" work plus a hello-world's time);"
        f" {many}; {statistics.median(cpu):.0f} ms of CPU per request, without the client's\n"
        f"  one image: median {one['p50']} ms, bare {single_ms:.1f} ms,"
        f" hello-world {hello_ms} ms; beside a busy neighbour {beside['images_per_second']} images/s;"
        f" ready in {ready_seconds:.1f} s, hello-world in {hello_seconds:.1f} s"
    )


ALONE = """
import sys
import numpy as np
import psutil
from lbae.io.artifacts.model_artifact import load_model
codec = load_model(sys.argv[1])
codec.decode(np.ones((codec.rows, codec.config.latent_dim), np.int8))
print(psutil.Process().memory_full_info().uss // 2**20)
"""


def test_memory_of_a_replica(tmp_path):
    """Memory of two replicas on a node after samples, paths and edits, compared with a process that decodes
    with the same model.
    """
    made = untrained(tmp_path, "celeba", components="10")
    environment = {**os.environ, **TORCH_RUNTIME_ENV["env_vars"]}
    command = [sys.executable, "-c", ALONE, made["model"]]
    alone = int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    with serving(made["bundle"], PORT, replicas=2), Client(f"http://127.0.0.1:{PORT}") as service:
        image = service.send(sample(1, seed=0, format="png")).content
        for seed in range(12):
            service.send(sample(64, seed=seed))
            service.send(interpolate([image, image], steps=8))
            service.send(edit(image, set=["label=7"]))
        print(f"\nmemory of two replicas, N = 1500: {megabytes()} MB unshared, a bare process {alone} MB")


def bare_one(bundle: Bundle, seed: int) -> float:
    started = time.perf_counter()
    encode_png(square_grid(bundle.sample(1, seed)))
    return time.perf_counter() - started
