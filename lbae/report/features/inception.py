"""Inception's features from torch-fidelity, as in the FID that papers report."""

import os
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from lbae.errors import LbaeError
from lbae.io.storage.digests import digest
from lbae.report.features.weights_file import only_tensors

FEATURES = 2048
_BATCH = 64


class Inception(nn.Module):
    """The 2,048 features of the last pooling layer for uint8 images (K, H, W, C)."""

    num_features = FEATURES

    def __init__(self, weights: Path) -> None:
        super().__init__()
        only_tensors(weights)
        self.network = FeatureExtractorInceptionV3("inception-v3-compat", [str(FEATURES)], str(weights))

    @torch.inference_mode()
    def features(self, images: UInt8[np.ndarray, "K H W C"]) -> Tensor:
        """Features (K, 2048), in batches; a grey image becomes three equal channels."""
        device = next(self.network.parameters()).device
        taken = [torch.empty((0, FEATURES))]
        for start in range(0, len(images), _BATCH):
            pixels = torch.from_numpy(images[start : start + _BATCH]).to(device).permute(0, 3, 1, 2)
            taken.append(self.network(pixels.expand(-1, 3, -1, -1))[0].cpu())
        return torch.cat(taken)


def load_inception() -> tuple[Inception, str]:
    """The network and its fingerprint.

    The weights come from torch's cache (TORCH_HOME), else they are downloaded into it. When neither works,
    LbaeError says which file to put where.
    """
    weights = Path(torch.hub.get_dir(), "checkpoints", os.path.basename(URL_INCEPTION_V3))
    if not weights.exists():
        weights.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(
                URL_INCEPTION_V3, str(weights), weights.stem.rpartition("-")[2], progress=False
            )
        except (OSError, RuntimeError) as error:
            raise LbaeError(
                f"Inception's weights are not at {weights}, and {URL_INCEPTION_V3} cannot be downloaded"
                f" ({error}): put that"
                " file there, or compare in the features of a classifier (--features classifier)"
            ) from error
    return Inception(weights), digest(weights.read_bytes())
