"""The network of the 2020 paper: a convolutional encoder, a fully connected bottleneck, a mirrored decoder.

As in the authors' code: one strided convolution and one residual pair per stage, kernel 4 and stride 2 down
and up, BatchNorm, LeakyReLU(0.02), sigmoid output. It differs in two points:

- The first decoder layer is not narrowed. The authors' MNIST decoder squeezes 200 bits into 16 reals.
- Only convolutions that BatchNorm rescales start as N(0, 0.02). The four layers without BatchNorm start with
  unit gain, which halves the epochs to the same loss.
"""

import torch
from torch import Tensor, nn

from lbae.config import ModelConfig
from lbae.core.network.bottleneck import width as bottleneck_width

_SLOPE = 0.02
_INIT_STD = 0.02
_BASE = 4  # side of the smallest feature map


class _Stage(nn.Module):
    """A resampling convolution followed by a residual pair of 3x3 convolutions at the new size."""

    def __init__(self, resample: nn.Module, width: int) -> None:
        super().__init__()
        self.resample = nn.Sequential(resample, nn.BatchNorm2d(width))
        self.residual = nn.Sequential(
            nn.LeakyReLU(_SLOPE),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(_SLOPE),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.activation = nn.LeakyReLU(_SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        y = self.resample(x)
        out: Tensor = self.activation(y + self.residual(y))
        return out


def _down(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False)


def _up(inputs: int, outputs: int) -> nn.Module:
    return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False)


def encoder(config: ModelConfig) -> nn.Sequential:
    """Images (K, C, H, W) to pre-activations (K, N)."""
    first, last = config.channels[0], config.channels[-1]
    layers: list[nn.Module] = [
        nn.Conv2d(config.image_channels, first, 3, padding=1, bias=False),
        nn.BatchNorm2d(first),
        nn.LeakyReLU(_SLOPE),
    ]
    width = first
    for outputs in config.channels[:-1]:
        layers.append(_Stage(_down(width, outputs), outputs))
        width = outputs
    outputs, _ = bottleneck_width(config.latent_dim, config.bottleneck)
    layers += [_down(width, last), nn.Flatten(), nn.Linear(last * _BASE**2, outputs)]
    return nn.Sequential(*layers)


def decoder(config: ModelConfig) -> nn.Sequential:
    """Codes (K, N) to logits (K, C, H, W)."""
    widths = config.channels[-2::-1]
    width = widths[0]
    _, inputs = bottleneck_width(config.latent_dim, config.bottleneck)
    layers: list[nn.Module] = [
        nn.Linear(inputs, width * _BASE**2),
        nn.Unflatten(1, (width, _BASE, _BASE)),
    ]
    for outputs in widths:
        layers.append(_Stage(_up(width, outputs), outputs))
        width = outputs
    layers += [
        _up(width, width),
        nn.BatchNorm2d(width),
        nn.LeakyReLU(_SLOPE),
        nn.Conv2d(width, config.image_channels, 3, padding=1),
    ]
    return nn.Sequential(*layers)


def initialise(encoder: nn.Sequential, decoder: nn.Sequential, generator: torch.Generator | None) -> None:
    """Initialise the weights of encoder and decoder."""
    plain = (encoder[-3], encoder[-1], decoder[0], decoder[-1])  # no BatchNorm follows
    for module in (*encoder.modules(), *decoder.modules()):
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            std = module.weight[0].numel() ** -0.5 if module in plain else _INIT_STD
            nn.init.normal_(module.weight, std=std, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
