"""What images look like, as vectors to cluster: histograms of gradient orientations, and mean colours.

Latents near in Hamming distance mostly share colours, whereas similar gradients mean similar content. The
orientation histograms follow Dalal and Triggs (2005), with the square root of Arandjelovic and Zisserman
(2012) in place of block norms.
"""

import math

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor
from torch.nn import functional

_ORIENTATIONS, _CELLS = 8, 8  # opposite gradients are one orientation; cells along a side
# Patches along a side, and the weight of their mean colours, which gives them about a tenth of all variance.
_PATCHES, _COLOUR = 4, 0.15
_CHUNK = 256


@torch.inference_mode()
def appearance(images: UInt8[np.ndarray, "K H W C"]) -> Float32[np.ndarray, "K F"]:
    """Return one vector per image, F = 512 + 16 C; Euclidean distances say how different images look."""
    chunks = [_appearance(torch.from_numpy(images[i : i + _CHUNK])) for i in range(0, len(images), _CHUNK)]
    return (
        np.concatenate(chunks)
        if chunks
        else np.empty((0, _ORIENTATIONS * _CELLS**2 + 16 * images.shape[3]), np.float32)
    )


def _appearance(images: Tensor) -> np.ndarray:
    pixels = images.permute(0, 3, 1, 2).float().div_(255)
    colours = functional.adaptive_avg_pool2d(pixels, _PATCHES).flatten(1)
    return torch.cat([_orientations(pixels.mean(dim=1, keepdim=True)), _COLOUR * colours], dim=1).numpy()


def _orientations(grey: Tensor) -> Tensor:
    """Unit vectors of the gradient's strength per cell and orientation.

    Each gradient is split between its two nearest orientations.
    """
    framed = functional.pad(grey, (1, 1, 1, 1), mode="replicate")
    across = framed[:, :, 1:-1, 2:] - framed[:, :, 1:-1, :-2]
    down = framed[:, :, 2:, 1:-1] - framed[:, :, :-2, 1:-1]
    angle = torch.atan2(down, across) * (_ORIENTATIONS / math.pi)
    steps = torch.arange(_ORIENTATIONS).view(-1, 1, 1)
    away = (angle - steps).remainder(_ORIENTATIONS)
    share = (1 - torch.minimum(away, _ORIENTATIONS - away)).clamp_(min=0)
    cells = functional.adaptive_avg_pool2d(torch.hypot(across, down) * share, _CELLS).flatten(1)
    return functional.normalize(cells, p=1, dim=1).sqrt()
