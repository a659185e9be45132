"""The streaming feed, compared with bare iteration over Ray Data and with images in memory."""

import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
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


def of_side(side: int) -> Config:
    return presets.get("cifar10").replace(image_size=side)


def stream_of(path: Path, config: Config) -> ray.data.Dataset:
    return streamed_images(plan(str(path)), config)[part_name(0)]


def feed_of(stream: ray.data.Dataset, config: Config, images: int, batch: int) -> StreamingFeed:
    return StreamingFeed(
        [stream.iterator()],
        [images // batch],
        config.model.image_shape,
        batch=batch,
        seed=0,
        epochs=ROUNDS + 1,
        device=CPU,
    )


def blocks(stream: ray.data.Dataset) -> Iterator[np.ndarray]:
    """Ray Data's bare product: the blocks, as views of the object store."""
    for block in stream.iterator().iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2):
        for chunk in block[PIXELS].chunks:
            yield np.frombuffer(chunk.buffers()[1], np.uint8)


def test_the_feed_delivers_images_of_256_pixels(compare, tmp_path):
    """The images are decoded by two tasks at a time while they are read."""
    config, images = of_side(256), 2048
    stream = stream_of(photographs(tmp_path / "data.parquet", images, 256), config)

    def epoch() -> None:
        one = StreamingFeed(
            [stream.iterator()], [27], config.model.image_shape, batch=64, seed=0, epochs=1, device=CPU
        )
        assert sum(len(batch) for batch in one(0)) == 27 * 64

    compare(epoch, lambda: list(map(len, blocks(stream))), "the speed of bare iteration over Ray Data")


def test_the_feed_delivers_decoded_images_of_256_pixels(compare, tmp_path):
    """The feed copies an image twice: into its window, and out of it in a batch."""
    config, images = of_side(256), 2048
    stream = stream_of(photographs(tmp_path / "data.parquet", images, 256), config).materialize()

    def epoch() -> None:
        one = StreamingFeed(
            [stream.iterator()], [27], config.model.image_shape, batch=64, seed=0, epochs=1, device=CPU
        )
        assert sum(len(batch) for batch in one(0)) == 27 * 64

    compare(
        epoch,
        lambda: [block.copy().copy() for block in blocks(stream)],
        "the speed of copying decoded blocks twice",
    )


def trained_by(network: LatentBernoulliAutoencoder, config: Config, batch: Tensor) -> None:
    optimizer = initial_state(network, config.train).optimizer
    training_step(network, optimizer, to_network(batch, config.model), "mse", "float32")


@pytest.mark.parametrize(("step", "steps", "batch"), [("sleeps", 80, 512), ("trains", 24, 64)])
def test_the_feed_beside_a_step_at_32_pixels(compare, tmp_path, step, steps, batch):
    """Blocks are decoded beforehand: on these CPUs, decoding would take the cores of the step."""
    config, images = of_side(32), steps * batch
    stream = stream_of(smooth_images(tmp_path / "data.parquet", images * 10 // 8), config).materialize()
    feed, epochs = feed_of(stream, config, images, batch), itertools.count()
    resident = list(torch.randint(0, 256, (steps, batch, 32, 32, 3), dtype=torch.uint8))
    torch.set_num_threads(1)
    network = LatentBernoulliAutoencoder(config.model).to(memory_format=torch.channels_last)
    take: Callable[[Tensor], None] = {
        "sleeps": lambda _: time.sleep(SLEEP_S),
        "trains": functools.partial(trained_by, network, config),
    }[step]

    def epoch(batches: Iterable[Tensor]) -> None:
        for some in batches:
            take(some)

    compare(
        lambda: epoch(feed(next(epochs))), lambda: epoch(resident), f"the speed of a step that {step} alone"
    )
