"""The LBAE network: strided convolutions, one residual pair per stage, a binary bottleneck, mirrored decoder.

After the authors' code: kernel 4 and stride 2 down and up, BatchNorm, LeakyReLU(0.02), sigmoid output. Unlike
it, the first decoder layer is not narrowed (its MNIST decoder squeezes 200 bits into 16 reals), and only
convolutions that BatchNorm rescales start as N(0, 0.02): the four layers without it start with unit gain,
which halves the epochs to the same loss.
"""

import torch
from torch import Tensor, nn

from lbae.config import ModelConfig
from lbae.core.network.bottleneck import squeeze
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


def _encoder(config: ModelConfig) -> nn.Sequential:
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


def _decoder(config: ModelConfig) -> nn.Sequential:
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


class LatentBernoulliAutoencoder(nn.Module):
    """Deterministic autoencoder with a latent in {-1, +1}^N; images are float32 (K, C, H, W) in [0, 1].

    With another bottleneck in its configuration it is a baseline of the same network, whose codes are real
    numbers.
    """

    def __init__(self, config: ModelConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.encoder = _encoder(config)
        self.decoder = _decoder(config)
        plain = (self.encoder[-3], self.encoder[-1], self.decoder[0], self.decoder[-1])
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                std = module.weight[0].numel() ** -0.5 if module in plain else _INIT_STD
                nn.init.normal_(module.weight, std=std, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def encode(self, images: Tensor) -> Tensor:
        """Latents (K, N) of +1 and -1, with the straight-through gradient."""
        return squeeze(self.encoder(images), self.config.bottleneck, self.training)[0]

    def decode_logits(self, latents: Tensor) -> Tensor:
        """Images (K, C, H, W) before the sigmoid."""
        logits: Tensor = self.decoder(latents)
        return logits

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction logits of the images, (K, C, H, W), and the loss of their codes: 0 for bits."""
        codes, price = squeeze(self.encoder(images), self.config.bottleneck, self.training)
        return self.decode_logits(codes), price
