"""The streaming feed, compared with bare iteration over Ray Data and with images in memory."""

import itertools
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from torch import Tensor

from lbae import presets
from lbae.config import Config
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.network.codec import to_network
from lbae.core.network.training import initial_state, training_step
from lbae.distributed.train.streamed_images import PIXELS, part_name, streamed_images
from lbae.distributed.train.streaming_feed import StreamingFeed
from lbae.io.images import encode_image
from lbae.io.sources.plan import plan
from tests.benchmarks.conftest import ROUNDS, smooth_images
from tests.conftest import image_table

SLEEP_S = 0.05  # a GPU's step of 512 images of 32 pixels
EPOCHS = 4  # at 256 pixels
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, object_store_memory=2**31, log_to_driver=False)
    yield
    ray.shutdown()


def photographs(path: Path, count: int, side: int) -> Path:
    """Write an image table of JPEGs with the detail of photographs: smooth noise plus a little fine noise."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 255, (64, 3, side // 8, side // 8))).float()
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear").permute(0, 2, 3, 1)
    noisy = smooth + torch.from_numpy(rng.normal(0, 8, smooth.shape))
    files = [encode_image(image, "jpeg") for image in noisy.clamp(0, 255).to(torch.uint8).numpy()]
    image_table(path, [files[i % 64] for i in range(count)], row_group_size=256)
    return path


def stream_of(path: Path, config: Config) -> ray.data.Dataset:
    return streamed_images(plan(str(path)), config)[part_name(0)]


def feed_of(stream: ray.data.Dataset, config: Config, steps: int, batch: int, epochs: int) -> StreamingFeed:
    shape = config.model.image_shape
    return StreamingFeed([stream.iterator()], [steps], shape, batch=batch, seed=0, epochs=epochs, device=CPU)


def blocks(stream: ray.data.Dataset) -> Iterator[np.ndarray]:
    """Ray Data's bare product: the blocks, as views of the object store."""
    for block in stream.iterator().iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2):
        for chunk in block[PIXELS].chunks:
            yield np.frombuffer(chunk.buffers()[1], np.uint8)


@pytest.mark.parametrize("decoded", [False, True], ids=["decoding", "decoded"])
def test_the_feed_delivers_images_of_256_pixels(compare, tmp_path, decoded):
    """Against bare iteration while tasks decode, and against a copy of every block when none do.

    The feed copies an image into its window. The memory of its windows is made once for all epochs, as in a
    training.
    """
    config = presets.get("celeba256")
    stream = stream_of(photographs(tmp_path / "data.parquet", 1024, 256), config)
    if decoded:
        stream = stream.materialize()

    def fed() -> None:
        feed = feed_of(stream, config, 14, 64, EPOCHS)
        assert sum(len(batch) for epoch in range(EPOCHS) for batch in feed(epoch)) == EPOCHS * 14 * 64

    def bare() -> None:
        for _ in range(EPOCHS):
            assert sum(len(block.copy() if decoded else block) for block in blocks(stream))

    compare(fed, bare, "the speed of " + ("a copy of blocks" if decoded else "bare iteration"))


@pytest.mark.parametrize(("step", "steps", "batch"), [("sleeps", 60, 512), ("trains", 24, 64)])
def test_the_feed_beside_a_step_at_32_pixels(compare, tmp_path, step, steps, batch):
    """Blocks are decoded beforehand: on these CPUs, decoding would take the cores of the step."""
    config, images = presets.get("cifar10"), steps * batch
    stream = stream_of(smooth_images(tmp_path / "data.parquet", images * 10 // 8), config).materialize()
    feed = feed_of(stream, config, steps, batch, epochs=ROUNDS + 1)
    epochs = itertools.count()
    resident = list(torch.randint(0, 256, (steps, batch, 32, 32, 3), dtype=torch.uint8))
    torch.set_num_threads(1)
    network = LatentBernoulliAutoencoder(config.model).to(memory_format=torch.channels_last)
    optimizer = initial_state(network, config.train).optimizer

    def epoch(batches: Iterable[Tensor]) -> None:
        for some in batches:
            if step == "sleeps":
                time.sleep(SLEEP_S)
            else:
                training_step(network, optimizer, to_network(some, config.model), "mse", "float32")

    compare(
        lambda: epoch(feed(next(epochs))), lambda: epoch(resident), f"the speed of a step that {step} alone"
    )
