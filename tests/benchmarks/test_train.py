"""Training jobs with the cifar10 preset, compared with bare loops.

One bare loop is our training step in a process of its own: ``python -m tests.benchmarks.test_train`` with
``TORCH_RUNTIME_ENV`` in its environment. The other works as the paper's original code.

Rates of jobs and of our loop are those of the second epoch, with the held-out images; those of jobs also
include checkpoint and TensorBoard.
"""

import functools
import io
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import geometric_mean

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import torch
from PIL import Image
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lbae import presets
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.network.codec import best_precision, to_network
from lbae.core.network.training import initial_state, reconstruction_loss, training_step
from lbae.distributed.cluster.torch_env import TORCH_RUNTIME_ENV
from lbae.jobs.build.train import train
from tests.benchmarks.conftest import busy_neighbour, smooth_images
from tests.conftest import ROOT

CONFIG = presets.get("cifar10")
BATCH = CONFIG.train.batch_size
IMAGES, PLAIN_STEPS, ROUNDS = 26_400, 3, 2
BASES = ("bare loop", "bare loop in a worker", "a worker per CPU", "as the original")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return smooth_images(tmp_path_factory.mktemp("images") / "data.parquet", IMAGES)


def bare() -> float:
    """Images per second of the bare loop in a process with a worker's memory settings."""
    command, environment = (
        [sys.executable, "-m", "tests.benchmarks.test_train"],
        {**os.environ, **TORCH_RUNTIME_ENV["env_vars"]},
    )
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def bare_in_a_worker(folder: Path) -> float:
    """Images per second of the bare loop as the only work of a Ray Train worker.

    If our job has this rate, then what it loses against the plain bare loop is due to Ray.
    """

    def loop(where: dict[str, str]) -> None:
        Path(where["rate"]).write_text(str(bare_loop()))

    folder.mkdir()
    trainer = TorchTrainer(
        loop,
        train_loop_config={"rate": str(folder / "rate")},
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(name="bare", storage_path=str(folder), worker_runtime_env=TORCH_RUNTIME_ENV),
    )
    trainer.fit()
    return float((folder / "rate").read_text())


def bare_loop() -> float:
    """Images per second in the second of two epochs over images in memory."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    precision = best_precision(torch.device("cpu"))
    network = LatentBernoulliAutoencoder(CONFIG.model).to(memory_format=torch.channels_last)
    optimizer = initial_state(network, CONFIG.train).optimizer
    images = torch.randint(0, 256, (IMAGES, 32, 32, 3), dtype=torch.uint8)
    held_out, trained = images[: IMAGES // 10], images[IMAGES // 10 :]
    steps, started = len(trained) // BATCH, 0.0
    for _ in range(2):
        started = time.perf_counter()
        order = torch.randperm(len(trained))
        network.train()
        for index in torch.split(order[: steps * BATCH], BATCH):
            pixels = to_network(trained[index], CONFIG.model)
            training_step(network, optimizer, pixels, "mse", precision)
        network.eval()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            for chunk in torch.split(held_out, BATCH):
                pixels = to_network(chunk, CONFIG.model)
                reconstruction_loss(network(pixels)[0], pixels, "mse")
    return steps * BATCH / (time.perf_counter() - started)


class Decoded(Dataset[Tensor]):
    """The images of a table, decoded by Pillow at every access."""

    def __init__(self, path: Path) -> None:
        self.cells = pq.read_table(path)["image"].to_pylist()

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(io.BytesIO(self.cells[index]["bytes"])) as image:
            return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)


def plain(path: Path) -> float:
    """Images per second of a loop as in the original code: float32, contiguous, decoding in this process."""
    network = LatentBernoulliAutoencoder(CONFIG.model)
    state = initial_state(network, CONFIG.train)
    batches = iter(DataLoader(Decoded(path), batch_size=BATCH, shuffle=True))
    started = 0.0
    for step in range(PLAIN_STEPS + 1):
        if step == 1:
            started = time.perf_counter()
        training_step(network, state.optimizer, next(batches), "mse", "float32")
    return BATCH * PLAIN_STEPS / (time.perf_counter() - started)


@pytest.mark.filterwarnings(
    "ignore:subprocess .* is still running:ResourceWarning"
)  # Ray's own processes, which it ends by their ids
def test_training_jobs(table, tmp_path):
    def on_ray(rate: Callable[[], float]) -> float:
        ray.init(address="local", num_cpus=2, object_store_memory=2**30, log_to_driver=False)
        found = rate()
        ray.shutdown()
        return found

    def job(name: str, **options: object) -> float:
        given = {"data": str(table), "out": str(tmp_path / name), "preset": "cifar10", "epochs": 2}
        return on_ray(lambda: train(**given, **options)["images_per_second"])

    rates: dict[str, list[float]] = defaultdict(list)
    rates["as the original"].append(plain(table))
    for number in range(ROUNDS):
        rates["bare loop"].append(bare())
        rates["bare loop in a worker"].append(
            on_ray(functools.partial(bare_in_a_worker, tmp_path / f"bare-{number}"))
        )
        rates["a worker per CPU"].append(job(f"all-{number}"))
        rates["the same, streaming"].append(job(f"stream-{number}", feed="streaming"))
        rates["one worker"].append(job(f"one-{number}", workers=1))
        with busy_neighbour():
            rates["a worker per CPU, a busy neighbour"].append(job(f"beside-{number}"))
    rates["bare loop"].append(bare())
    print()
    for name, found in rates.items():
        of = ", ".join(
            f"{geometric_mean(found) / geometric_mean(rates[other]):.2f} of {other}" for other in BASES
        )
        print(f"{name}: {', '.join(f'{rate:.0f}' for rate in found)} images/s; {of}")


if __name__ == "__main__":
    print(bare_loop())
