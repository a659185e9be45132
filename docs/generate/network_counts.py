"""What training and serving a preset's network takes, counted on tensors without memory."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lbae import presets
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder


@dataclass(frozen=True, kw_only=True)
class Network:
    """What is counted of a preset.

    ``train``, ``encode`` and ``decode`` are floating-point operations per image, ``kernels`` operators per
    training step, ``pixels`` bytes per decoded image.
    """

    name: str
    train: float
    encode: float
    decode: float
    kernels: int
    parameters: int
    norms: int
    pixels: int
    bits: int


def network(name: str) -> Network:
    """Count a preset's network; its tensors take no memory."""
    config = presets.get(name).model
    with torch.device("meta"):
        net = LatentBernoulliAutoencoder(config)
        images = torch.empty(1, config.image_channels, config.image_size, config.image_size)
        latents = torch.empty(1, config.latent_dim)
    return Network(
        name=name,
        train=_operations(lambda: net(images)[0].sum().backward()),
        encode=_operations(lambda: net.encode(images)),
        decode=_operations(lambda: net.decode_logits(latents)),
        kernels=_operators(lambda: net(images)[0].sum().backward()),
        parameters=sum(weight.numel() for weight in net.parameters()),
        norms=sum(isinstance(module, _BatchNorm) for module in net.modules()),
        pixels=math.prod(config.image_shape),
        bits=config.latent_dim,
    )


def _operations(work: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators that torch dispatches, views included."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def _operators(work: Callable[[], object]) -> int:
    with _Counter() as counter:  # type: ignore[no-untyped-call]
        work()
    return counter.count
