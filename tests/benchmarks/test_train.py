"""Training jobs against a bare loop in this process, and against one as the original's; the cifar10 preset, two cores."""

import io
import math
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lbae import presets
from lbae.core.codec import best_precision, to_network
from lbae.core.network import LatentBernoulliAutoencoder
from lbae.core.training import initial_state, training_step
from lbae.distributed.train import train
from tests.benchmarks.conftest import smooth_images

CONFIG = presets.get("cifar10")
IMAGES, BATCH, BARE_STEPS, PLAIN_STEPS = 13_200, 512, 8, 3


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return smooth_images(tmp_path_factory.mktemp("images") / "data.parquet", IMAGES)


def bare() -> float:
    """Images a second of the same steps on images in memory."""
    precision = best_precision(torch.device("cpu"))
    network = LatentBernoulliAutoencoder(CONFIG.model).to(memory_format=torch.channels_last)
    state = initial_state(network, CONFIG.train)
    images = torch.randint(0, 256, (BATCH * BARE_STEPS, 32, 32, 3), dtype=torch.uint8)
    spent = []
    for chunk in torch.split(images, BATCH):
        started = time.perf_counter()
        training_step(network, state.optimizer, to_network(chunk, CONFIG.model), "mse", precision)
        spent.append(time.perf_counter() - started)
    return BATCH * (BARE_STEPS - 1) / sum(spent[1:])


class Decoded(Dataset[Tensor]):
    """Pillow's images of a table, decoded at every access."""

    def __init__(self, path: Path) -> None:
        self.cells = pq.read_table(path)["image"].to_pylist()

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(io.BytesIO(self.cells[index]["bytes"])) as image:
            return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)


def plain(path: Path) -> float:
    """Images a second of a loop as the original's: float32, contiguous, images decoded anew in this process."""
    network = LatentBernoulliAutoencoder(CONFIG.model)
    state = initial_state(network, CONFIG.train)
    batches = iter(DataLoader(Decoded(path), batch_size=BATCH, shuffle=True))
    started = 0.0
    for step in range(PLAIN_STEPS + 1):
        if step == 1:
            started = time.perf_counter()
        training_step(network, state.optimizer, next(batches), "mse", "float32")
    return BATCH * PLAIN_STEPS / (time.perf_counter() - started)


def test_training_jobs(table, tmp_path):
    def job(name: str, **options: object) -> float:
        ray.init(address="local", num_cpus=2, object_store_memory=2**30, log_to_driver=False)
        found = train(data=str(table), out=str(tmp_path / name), preset="cifar10", epochs=2, **options)["images_per_second"]
        ray.shutdown()
        return found

    rates = {"bare loop": bare(), "as the original": plain(table)}
    rates["one worker"] = job("one", workers=1)
    rates["two workers"] = job("two", workers=2)
    rates["one worker, streaming"] = job("stream", workers=1, feed="streaming")
    rates["bare loop again"] = bare()
    base = math.sqrt(rates["bare loop"] * rates["bare loop again"])
    print()
    for name, rate in rates.items():
        original = rate / rates["as the original"]
        print(f"{name}: {rate:.0f} images/s, {rate / base:.2f} of the bare loop, {original:.1f} of the original")
