"""The tables of docs/guides/clusters.md: ``python -m docs.generate.cluster_arithmetic``.

Operations, parameters and collectives are counted from the networks of the presets, bytes from their images.
All rates are assumptions, except :data:`CORE`, which ``--measure`` measures on one core of this machine.
"""

import sys
import time
from collections.abc import Callable, Iterable

import numpy as np
import torch

from docs.generate.network_counts import Network, network
from lbae import presets
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.network.codec import Codec, best_precision
from lbae.io.images import decode_image, encode_image

PRESETS = ("cifar10", "celeba", "celeba256")
IMAGES, EPOCHS, PER_GPU = 10_000_000, 60, 64
NODES, GPUS, CORES, MEMORY = 2, 8, 96, 1e12  # per node: GPUs, cores, bytes
PRODUCT = 800e12  # operations per second of a large bfloat16 product
SHARE = 0.1  # of PRODUCT: training of networks this small
STORAGE, NETWORK, COPY, ASSEMBLE = 2e9, 12.5e9, 20e9, 2e9  # bytes per second: node, node, GPU, GPU's worker
COLLECTIVE, KERNEL = 50e-6, 8e-6  # seconds: a small collective between nodes, the start of an operation
INT8 = 0.5e12  # operations per second and core of the moment sums, without AMX
CORE = {  # measured on one core: file bytes, milliseconds to decode one, network operations per second
    "cifar10": (1_251, 0.093, 190e9),
    "celeba": (3_067, 0.13, 140e9),
    "celeba256": (40_031, 0.66, 110e9),
}


def step_ms(net: Network) -> dict[str, float]:
    """Milliseconds of a step by part; the parts of the feed run beside those of the GPU."""
    gpus = NODES * GPUS
    file_bytes, decode_ms, _ = CORE[net.name]
    arithmetic = PER_GPU * net.train / (PRODUCT * SHARE)
    node_images = PER_GPU * GPUS
    return {
        "feed: read files from storage": 1e3 * node_images * file_bytes / STORAGE,
        "feed: decode, all cores": node_images * decode_ms / CORES,
        "feed: assemble and shuffle": 1e3 * PER_GPU * net.pixels / ASSEMBLE,
        "feed: copy to the GPU": 1e3 * PER_GPU * net.pixels / COPY,
        "GPU: forward and backward": 1e3 * max(arithmetic, net.kernels * KERNEL),
        "GPU: sum the gradients": 1e3 * 2 * (gpus - 1) / gpus * 4 * net.parameters / NETWORK,
        "GPU: SyncBatchNorm": 1e3 * 2 * net.norms * COLLECTIVE,
    }


def is_resident(net: Network) -> bool:
    """Whether training keeps the decoded images in memory: a quarter of the nodes' memory at most."""
    return IMAGES * net.pixels <= 0.25 * NODES * MEMORY


def step_seconds(net: Network) -> tuple[float, str]:
    """Seconds per step, and the part that limits it."""
    parts = step_ms(net)
    feed = {} if is_resident(net) else {name: ms for name, ms in parts.items() if name.startswith("feed")}
    gpu = {name: ms for name, ms in parts.items() if name.startswith("GPU")}
    slowest = max(feed, key=feed.__getitem__, default="")
    if feed and feed[slowest] > sum(gpu.values()):
        return feed[slowest] / 1e3, slowest
    return sum(gpu.values()) / 1e3, max(gpu, key=gpu.__getitem__)


def stage_seconds(net: Network) -> dict[str, tuple[float, str]]:
    """Seconds per stage of all images, and what limits it."""
    cores, gpus = NODES * CORES, NODES * GPUS
    file_bytes, decode_ms, core = CORE[net.name]
    read = IMAGES * file_bytes / (NODES * STORAGE), "storage"
    decode = IMAGES * decode_ms / 1e3 / cores, "cores: files"
    on_gpus = IMAGES / (PRODUCT * SHARE * gpus)
    step, limit = step_seconds(net)
    products = IMAGES * 1.4 * (net.bits + 1) ** 2 / (INT8 * cores)
    return {
        "ingest": max(read, decode),
        f"train, {EPOCHS} epochs": (EPOCHS * IMAGES / (PER_GPU * gpus) * step, limit),
        "encode": max(read, decode, (on_gpus * net.encode, "GPUs")),
        "reduce": max((IMAGES * net.bits / 8 / (NODES * STORAGE), "storage"), (products, "cores: products")),
        "fit --exact, decoding all latents": (IMAGES * net.decode / (core * cores), "cores: decoder"),
    }


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    cells = [list(head), *map(list, rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], f"|---|{'--:|' * (len(cells[0]) - 1)}", *lines[1:]])


def tables() -> list[str]:
    """The tables of the guide: what is counted, a step by part, and the stages."""
    nets = [network(name) for name in PRESETS]
    counted = {
        "bytes per decoded image": [f"{net.pixels:,}" for net in nets],
        f"all {IMAGES / 1e6:g} million decoded, GB": [f"{IMAGES * net.pixels / 1e9:,.0f}" for net in nets],
        "feed": ["resident" if is_resident(net) else "streaming" for net in nets],
        "GFLOP per image: step, encode, decode": [
            f"{net.train / 1e9:.1f}, {net.encode / 1e9:.2f}, {net.decode / 1e9:.2f}" for net in nets
        ],
        "operators per step": [str(net.kernels) for net in nets],
        "parameters, millions": [f"{net.parameters / 1e6:.1f}" for net in nets],
        "checkpoint, MB": [f"{12 * net.parameters / 1e6:.0f}" for net in nets],
        "SyncBatchNorm collectives per step": [str(2 * net.norms) for net in nets],
    }
    parts = [step_ms(net) for net in nets]
    steps = {name: [f"{part[name]:.2f}" for part in parts] for name in parts[0]}
    whole = [step_seconds(net) for net in nets]
    steps["**step**"] = [f"**{1e3 * seconds:.1f}**" for seconds, _ in whole]
    steps["what limits it"] = [limit.partition(": ")[2] for _, limit in whole]
    steps["images per second"] = [f"{PER_GPU * NODES * GPUS / seconds:,.0f}" for seconds, _ in whole]
    stages = [stage_seconds(net) for net in nets]
    spent = {name: [f"{_duration(one[name][0])}; {one[name][1]}" for one in stages] for name in stages[0]}
    spent["serve, images per second per core"] = [
        f"{CORE[net.name][2] / net.decode:,.0f}; decoder" for net in nets
    ]
    spent["GPU hours of training"] = [f"{NODES * GPUS * _training(one) / 3600:,.0f}" for one in stages]
    return [
        table((head, *PRESETS), ([name, *cells] for name, cells in rows.items()))
        for head, rows in (("counted", counted), ("ms per step", steps), ("stage", spent))
    ]


def _training(stages: dict[str, tuple[float, str]]) -> float:
    return next(seconds for name, (seconds, _) in stages.items() if name.startswith("train"))


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "below 1 s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def measure(name: str) -> tuple[int, float, float]:
    """Measure one core.

    Returns:
        Bytes of a JPEG of smooth noise, CPU milliseconds to decode it, operations per second of the decoder.
    """
    torch.set_num_threads(1)
    config, rng = presets.get(name).model, np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, *[config.content_size // 4] * 2)))
    smooth = torch.nn.functional.interpolate(coarse, config.image_shape[:2], mode="bilinear")
    file = encode_image(smooth[0].permute(1, 2, 0).to(torch.uint8).numpy(), "jpeg")
    codec = Codec(LatentBernoulliAutoencoder(config), best_precision(torch.device("cpu")))
    latents = np.ones((codec.rows, config.latent_dim), np.int8)
    decoded = _cpu_seconds(lambda: [decode_image(file, config) for _ in range(100)]) / 100
    per_image = _cpu_seconds(lambda: codec.decode(latents)) / codec.rows
    return len(file), 1e3 * decoded, network(name).decode / per_image


def _cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of the fastest of three runs after one that warms up: other processes do not count."""
    work()
    spent = []
    for _ in range(3):
        started = time.process_time()
        work()
        spent.append(time.process_time() - started)
    return min(spent)


if __name__ == "__main__":
    if sys.argv[1:] == ["--measure"]:
        for preset in PRESETS:
            size, milliseconds, rate = measure(preset)
            print(f'"{preset}": ({size:_}, {milliseconds:.2g}, {rate / 1e9:.2g}e9),')
    else:
        print("\n\n".join(tables()))
