"""Errors of reconstructions against their originals, with torchmetrics."""

import os
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image import LearnedPerceptualImagePatchSimilarity
from torchvision.models import AlexNet_Weights

from lbae.config import ModelConfig
from lbae.report.features.inception import only_tensors

Images = UInt8[np.ndarray, "K H W C"]
_LPIPS_SIDE = 32  # AlexNet's last layers have no output for smaller images
_CHUNK = 256


def load_lpips(config: ModelConfig) -> LearnedPerceptualImagePatchSimilarity | None:
    """LPIPS with AlexNet, or None where it cannot be computed.

    It needs colour images of 32 pixels or more, and AlexNet's weights in torch's cache (TORCH_HOME).
    """
    weights = Path(torch.hub.get_dir(), "checkpoints", os.path.basename(AlexNet_Weights.DEFAULT.url))
    if config.image_channels != 3 or config.content_size < _LPIPS_SIDE or not weights.exists():
        return None
    only_tensors(weights)
    return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True, reduction="sum").eval()


@torch.inference_mode()
def pixel_sums(
    images: Images, rebuilt: Images, lpips: LearnedPerceptualImagePatchSimilarity | None
) -> dict[str, float]:
    """Sums over images of squared error (pixels in [0, 1]), structural similarity and, if given, LPIPS."""
    sums = {"mse": 0.0, "ssim": 0.0} | ({"lpips": 0.0} if lpips else {})
    for start in range(0, len(images), _CHUNK):
        a, b = (_floats(x[start : start + _CHUNK]) for x in (images, rebuilt))
        sums["mse"] += float((a - b).square().mean(dim=(1, 2, 3)).double().sum())
        similar = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
        assert isinstance(similar, Tensor)
        sums["ssim"] += float(similar.double().sum())
        if lpips:
            sums["lpips"] += float(lpips(a.to(lpips.device), b.to(lpips.device)))
    return sums


def _floats(images: Images) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255)
