"""Images to latents and back with a trained network, in one padded batch shape.

Rounding in a matrix product depends on the batch shape, so all batches have one size. The latents and pixels
of an image therefore do not depend on the other rows of a call.

On CPUs several batches run in parallel, each on one thread. Threads that share a batch wait for each other at
every layer, which takes many times as long beside another busy process (docs/measurements.md).
"""

import functools
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from jaxtyping import Int8, UInt8
from torch import Tensor
from torch.nn import functional

from lbae.config import ModelConfig, Precision
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder, unfilled
from lbae.core.network.spatial_network import HEADS, LAST_WIDTH

# Rows per batch. On one thread, 32 rows take about a fifth more time per row than 64, but a call with a
# single row takes half the time.
CPU_BATCH, _GPU_BATCH = 32, 128
_MOST_NUMBERS = 64 * 256**2  # of a feature map, per row of a full batch: the most of all presets
# CPUs with native bfloat16; "bf16" is ARM's name. oneDNN also accepts bfloat16 on CPUs that only emulate it
# with AVX-512, at half the speed of float32.
_CPU_BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")


def rows_per_batch(config: ModelConfig, usual: int) -> int:
    """Fewer rows than ``usual`` if the network's feature maps are larger than those of all presets."""
    widest = max(LAST_WIDTH, *(width // 4**stage for stage, width in enumerate(config.channels)))
    largest = max(widest * config.image_size**2, HEADS * config.latent_grid**4)  # feature map, attention
    return max(1, min(usual, usual * _MOST_NUMBERS // largest))


def best_precision(device: torch.device) -> Precision:
    """bfloat16 where the device multiplies it natively, else float32."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    native = any(torch.cpu.get_capabilities().get(name) for name in _CPU_BFLOAT16)
    return "bfloat16" if native and torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Context manager in which the network runs at ``precision``."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def to_network(images: Tensor, config: ModelConfig) -> Tensor:
    """Convert uint8 images (K, H, W, C) of the content size to padded float32 (K, C, H', W') in [0, 1].

    The result has channels-last memory format.
    """
    pixels = images.permute(0, 3, 1, 2).float().div_(255)
    pad = config.padding
    return functional.pad(pixels, (pad, pad, pad, pad)).contiguous(memory_format=torch.channels_last)


def from_network(logits: Tensor, config: ModelConfig) -> Tensor:
    """Convert the decoder's logits (K, C, H', W') to uint8 images (K, H, W, C) of the content size."""
    pad, side = config.padding, config.content_size
    pixels = torch.sigmoid(logits.float()).mul_(255).round_().to(torch.uint8)
    return pixels[:, :, pad : pad + side, pad : pad + side].permute(0, 2, 3, 1)


class Codec:
    """A trained network for inference: ``encode`` and ``decode`` between uint8 images and latents."""

    def __init__(
        self, network: LatentBernoulliAutoencoder, precision: Precision, device: torch.device | str = "cpu"
    ) -> None:
        self.device = torch.device(device)
        self.precision = precision
        self.config = network.config
        usual, self._batches = (CPU_BATCH, _cpu_threads()) if self.device.type == "cpu" else (_GPU_BATCH, 1)
        self._batch = rows_per_batch(network.config, usual)
        self._network = network.to(self.device).to(memory_format=torch.channels_last).eval()

    def __repr__(self) -> str:
        return (
            f"Codec(image_shape={self.config.image_shape}, latent_dim={self.config.latent_dim},"
            f" precision={self.precision!r}, device={str(self.device)!r})"
        )

    @property
    def rows(self) -> int:
        """Number of rows per call that keeps the device busy."""
        return self._batch * self._batches

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the weights as arrays in memory order, so that Ray's object store can share them."""
        state = {name: _ordered(value.cpu()).numpy() for name, value in self._network.state_dict().items()}
        return _from_arrays, (self.config, state, self.precision, str(self.device))

    def to(self, device: torch.device | str) -> "Codec":
        """Return this codec on another device; the network is moved, not copied."""
        return Codec(self._network, self.precision, device)

    def encode(self, images: UInt8[np.ndarray, "K H W C"]) -> Int8[np.ndarray, "K N"]:
        """Latents of uint8 images of the content size; ValueError for images of another shape or type."""
        shape = self.config.image_shape
        if images.shape[1:] != shape:
            taken = ", ".join(map(str, shape))
            raise ValueError(f"images have shape {images.shape}; this model takes (K, {taken})")
        if images.dtype != np.uint8:
            raise ValueError(f"images are {images.dtype}; allowed: uint8 from 0 to 255")

        def codes(chunk: Tensor) -> Tensor:
            return self._network.encode(to_network(chunk, self.config)).to(torch.int8)

        return self._by_batches(codes, images, np.empty((len(images), self.config.latent_dim), dtype=np.int8))

    def decode(self, latents: Int8[np.ndarray, "K N"]) -> UInt8[np.ndarray, "K H W C"]:
        """uint8 images of the content size for latents of +1 and -1; ValueError for others, or another N."""
        if latents.shape[1] != self.config.latent_dim:
            raise ValueError(
                f"latents are {latents.shape[1]} bits wide; this model has N = {self.config.latent_dim}"
            )
        if latents.dtype != np.int8 or not latents.all():
            raise ValueError(f"latents are {latents.dtype}, or hold 0; allowed: int8, +1 and -1")

        def images(chunk: Tensor) -> Tensor:
            return from_network(self._network.decode_logits(chunk.float()), self.config)

        empty = np.empty((len(latents), *self.config.image_shape), dtype=np.uint8)
        return self._by_batches(images, latents, empty)

    def _by_batches(
        self, network: Callable[[Tensor], Tensor], rows: np.ndarray, results: np.ndarray
    ) -> np.ndarray:
        """Fill and return ``results``: ``network`` applied to ``rows``, batch by batch."""

        @torch.inference_mode()
        def run(start: int) -> None:
            # A copy of views that torch cannot read, such as mirrored images.
            some = torch.from_numpy(np.ascontiguousarray(rows[start : start + self._batch])).to(self.device)
            repeated = some[torch.arange(self._batch, device=self.device) % len(some)]
            with autocast(self.device, self.precision):
                found = network(repeated)[: len(some)]
            results[start : start + len(some)] = found.cpu().numpy()

        starts = range(0, len(rows), self._batch)
        list(_cpu_pool().map(run, starts) if self._batches > 1 else map(run, starts))
        return results


@functools.cache
def _cpu_threads() -> int:
    """Number of torch threads when this process made its first codec on a CPU."""
    return torch.get_num_threads()


@functools.cache
def _cpu_pool() -> ThreadPoolExecutor:
    """The thread pool shared by all codecs of this process; each thread runs torch single-threaded."""
    return ThreadPoolExecutor(_cpu_threads(), "codec", initializer=torch.set_num_threads, initargs=(1,))


def _ordered(weights: Tensor) -> Tensor:
    """Weights as a contiguous array in channels-last order."""
    return weights.permute(0, 2, 3, 1).contiguous() if weights.dim() == 4 else weights


def _from_arrays(
    config: ModelConfig, state: dict[str, np.ndarray], precision: Precision, device: str
) -> Codec:
    """A codec on weights that other processes may share: evaluation mode never writes to them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        weights = {name: torch.from_numpy(values) for name, values in state.items()}
    network = unfilled(config)
    ordered = {
        name: value.permute(0, 3, 1, 2) if value.dim() == 4 else value for name, value in weights.items()
    }
    network.load_state_dict(ordered, assign=True)
    return Codec(network, precision, device)
