"""The network with a grid of cells: ``latent_grid`` squared cells, each with the same number of bits.

The encoder halves the image down to one pixel per cell (the first time by space-to-depth). A residual block,
self-attention and another residual block mix the cells, and a 1x1 convolution computes the bits of each. The
decoder mirrors the encoder. A latent holds the cells row by row, the bits of a cell together.

There is no fully connected layer, so each bit describes its own part of the image (docs/measurements.md).
Residual blocks are pre-activation (He et al. 2016) and start as the identity. The BatchNorm before the sign
has no scale or offset, so every bit starts balanced.
"""

import torch
from torch import Tensor, nn

from lbae.config import ModelConfig

HEADS = 4
LAST_WIDTH = 32  # of the decoder's feature map at full size


class _Block(nn.Module):
    """A residual pair of 3x3 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *_activation(width),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            *_activation(width),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.residual(x)
        return out


class _Attention(nn.Module):
    """Self-attention between the cells (Vaswani et al. 2017), added to them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = HEADS if width % HEADS == 0 else 1
        self.norm = nn.BatchNorm2d(width)
        self.projection = nn.Conv2d(width, 3 * width, 1, bias=False)
        self.out = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        count, width, height, side = x.shape
        projected = self.projection(self.norm(x)).permute(0, 2, 3, 1)
        query, key, value = projected.reshape(count, height * side, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        # For so few cells, the backward pass of PyTorch's fused attention is several times slower on CPUs.
        scores = query @ key.mT * (width // self.heads) ** -0.5
        mixed = scores.softmax(-1).to(value.dtype) @ value
        cells = mixed.transpose(1, 2).reshape(count, height, side, width)
        out: Tensor = x + self.out(cells.permute(0, 3, 1, 2))
        return out


class _ToLatent(nn.Module):
    """Cells (K, B, G, G) to latents (K, G * G * B): row by row, the bits of a cell together."""

    def forward(self, cells: Tensor) -> Tensor:
        return cells.permute(0, 2, 3, 1).flatten(1)


class _ToCells(nn.Module):
    """Inverse of :class:`_ToLatent`."""

    def __init__(self, grid: int, bits: int) -> None:
        super().__init__()
        self.cells = grid, grid, bits

    def forward(self, latents: Tensor) -> Tensor:
        return latents.reshape(-1, *self.cells).permute(0, 3, 1, 2)


def _activation(width: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(width), nn.ReLU()


def _mix(width: int) -> tuple[nn.Module, ...]:
    return _Block(width), _Attention(width), _Block(width)


def encoder(config: ModelConfig) -> nn.Sequential:
    """Images (K, C, H, W) to pre-activations (K, N)."""
    width = config.channels[0]
    bits = config.latent_dim // config.latent_grid**2
    layers: list[nn.Module] = [
        nn.PixelUnshuffle(2),
        nn.Conv2d(4 * config.image_channels, width, 3, padding=1, bias=False),
    ]
    for outputs in config.channels[1:]:
        layers += [*_activation(width), nn.Conv2d(width, outputs, 4, stride=2, padding=1, bias=False)]
        width = outputs
    layers += [*_mix(width), *_activation(width), nn.Conv2d(width, bits, 1, bias=False)]
    return nn.Sequential(*layers, nn.BatchNorm2d(bits, affine=False), _ToLatent())


def decoder(config: ModelConfig) -> nn.Sequential:
    """Codes (K, N) to logits (K, C, H, W)."""
    width = config.channels[-1]
    bits = config.latent_dim // config.latent_grid**2
    layers: list[nn.Module] = [
        _ToCells(config.latent_grid, bits),
        nn.Conv2d(bits, width, 3, padding=1, bias=False),
        *_mix(width),
    ]
    for outputs in (*config.channels[-2::-1], LAST_WIDTH):
        layers += [
            *_activation(width),
            nn.ConvTranspose2d(width, outputs, 4, stride=2, padding=1, bias=False),
        ]
        width = outputs
    return nn.Sequential(*layers, *_activation(width), nn.Conv2d(width, config.image_channels, 3, padding=1))


def initialise(encoder: nn.Sequential, decoder: nn.Sequential, generator: torch.Generator | None) -> None:
    """Initialise encoder and decoder with PyTorch's variance; residual branches start at zero."""
    modules = [*encoder.modules(), *decoder.modules()]
    zero = [module.residual[-1] for module in modules if isinstance(module, _Block)]
    zero += [module.out for module in modules if isinstance(module, _Attention)]
    for module in modules:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            std = 0.0 if module in zero else (3 * module.weight[0].numel()) ** -0.5
            nn.init.normal_(module.weight, std=std, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
