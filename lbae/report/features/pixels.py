"""Errors of reconstructions against their originals.

torchmetrics takes four seconds of a core to import, so only a process that needs LPIPS does.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor
from torch.nn import functional

from lbae.config import ModelConfig
from lbae.report.features.weights_file import only_tensors

if TYPE_CHECKING:
    from torchmetrics.image import LearnedPerceptualImagePatchSimilarity

Images = UInt8[np.ndarray, "K H W C"]
Pixels = Float32[Tensor, "K C H W"]
_LPIPS_SIDE = 32  # AlexNet's last layers have no output for smaller images
_CHUNK = 256
# Of structural similarity: the constants of its authors, and their window of 11 pixels.
_C1, _C2 = 0.01**2, 0.03**2
_WINDOW = torch.exp(-(torch.arange(-5.0, 6.0) ** 2) / (2 * 1.5**2))
_WINDOW /= _WINDOW.sum()


def load_lpips(config: ModelConfig) -> "LearnedPerceptualImagePatchSimilarity | None":
    """LPIPS with AlexNet, or None where it cannot be computed.

    It needs colour images of 32 pixels or more, and AlexNet's weights in torch's cache (TORCH_HOME).
    """
    if config.image_channels != 3 or config.content_size < _LPIPS_SIDE:
        return None
    from torchvision.models import AlexNet_Weights

    weights = Path(torch.hub.get_dir(), "checkpoints", os.path.basename(AlexNet_Weights.DEFAULT.url))
    if not weights.exists():
        return None
    from torchmetrics.image import LearnedPerceptualImagePatchSimilarity

    only_tensors(weights)
    return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True, reduction="sum").eval()


@torch.inference_mode()
def pixel_sums(
    images: Images, rebuilt: Images, lpips: "LearnedPerceptualImagePatchSimilarity | None"
) -> dict[str, float]:
    """Sums over images of squared error (pixels in [0, 1]), structural similarity and, if given, LPIPS."""
    sums = {"mse": 0.0, "ssim": 0.0} | ({"lpips": 0.0} if lpips else {})
    for start in range(0, len(images), _CHUNK):
        a, b = (_floats(x[start : start + _CHUNK]) for x in (images, rebuilt))
        sums["mse"] += float((a - b).square().mean(dim=(1, 2, 3)).double().sum())
        sums["ssim"] += float(structural_similarity(a, b).double().sum())
        if lpips:
            sums["lpips"] += float(lpips(a.to(lpips.device), b.to(lpips.device)))
    return sums


def structural_similarity(a: Pixels, b: Pixels) -> Float32[Tensor, "K"]:
    """Structural similarity of pairs of images in [0, 1] (Wang et al. 2004), with a Gaussian window.

    Images are mirrored at their borders, so each side needs 6 pixels or more.
    """
    channels, reach = a.shape[1], len(_WINDOW) // 2
    moments = torch.cat([a, b, a * a, b * b, a * b])
    padded = functional.pad(moments, [reach] * 4, mode="reflect")
    window = torch.outer(_WINDOW, _WINDOW).expand(channels, 1, -1, -1)
    mean_a, mean_b, aa, bb, ab = functional.conv2d(padded, window, groups=channels).chunk(5)
    variances = (aa - mean_a**2).clamp(min=0) + (bb - mean_b**2).clamp(min=0)
    covariance = ab - mean_a * mean_b
    light = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    return (light * (2 * covariance + _C2) / (variances + _C2)).mean(dim=(1, 2, 3))


def _floats(images: Images) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255)
