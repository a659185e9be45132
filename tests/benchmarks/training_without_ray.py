"""The training loop alone, without Ray: ``python -m tests.benchmarks.training_without_ray [PRESET ...]``.

For each preset (by default cifar10 and celeba) it prints the images per second of an epoch over resident
images. It compares them with the same step over one batch on the device, and the operations per second with
those of a large matrix product.
"""

import sys
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from lbae import presets
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.network.codec import best_precision, to_network
from lbae.core.network.feed import Resident
from lbae.core.network.training import initial_state, train_epoch, training_step

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
STEPS, SIDE = (100, 8192) if DEVICE.type == "cuda" else (4, 2048)


def seconds(work: Callable[[], object]) -> float:
    """Seconds of the second of two runs."""
    spent = 0.0
    for _ in range(2):
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        spent = time.perf_counter() - started
    return spent


def peak() -> float:
    """Operations per second of a product of two large bfloat16 matrices."""
    a, b = (torch.randn(SIDE, SIDE, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    return 10 * 2 * SIDE**3 / seconds(lambda: [a @ b for _ in range(10)])


def measure(preset: str) -> None:
    """Print the figures for a preset."""
    config, precision = presets.get(preset), best_precision(DEVICE)
    network = LatentBernoulliAutoencoder(config.model).to(DEVICE).to(memory_format=torch.channels_last)
    state, batch = initial_state(network, config.train), config.train.batch_size
    images = torch.randint(
        0, 256, (batch * STEPS, *config.model.image_shape), dtype=torch.uint8, device=DEVICE
    )
    feed = Resident(images, batch, STEPS, seed=0)
    loop = (
        batch * STEPS / seconds(lambda: train_epoch(state, network, feed, config.train, precision=precision))
    )
    pixels = to_network(images[:batch], config.model)

    def step() -> object:
        return training_step(network, state.optimizer, pixels, config.train.loss, precision)

    bare = batch * STEPS / seconds(lambda: [step() for _ in range(STEPS)])
    with FlopCounterMode(display=False) as counter:
        step()
    share = counter.get_total_flops() * loop / batch / peak()
    print(
        f"{preset}: {loop:,.0f} images/s, {loop / bare:.2f} of the {bare:,.0f} images/s on one batch;"
        f" {share:.2f} of the operations per second of a matrix product"
    )


if __name__ == "__main__":
    print(f"{torch.cuda.get_device_name() if DEVICE.type == 'cuda' else 'cpu'}, torch {torch.__version__}")
    for name in sys.argv[1:] or ("cifar10", "celeba"):
        measure(name)
