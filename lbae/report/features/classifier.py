"""A small classifier of a data set's attributes: its features can replace Inception's, and it judges edits.

It is trained on labels or attributes and needs no weights from elsewhere. Distances in its features compare
priors of one data set with each other, never with published figures.
"""

import dataclasses
from collections.abc import Mapping
from itertools import groupby
from typing import Any

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor, nn
from torch.nn import functional

from lbae.core.network.codec import autocast, best_precision
from lbae.io.artifacts.attribute_columns import Attribute

FEATURES = 128
BATCH = 256

Images = UInt8[np.ndarray, "K H W C"]
Indicators = Bool[np.ndarray, "K A"]


class Classifier(nn.Module):
    """Features (K, 128) of uint8 images (K, H, W, C), and a linear head with one logit per attribute.

    ``unusable`` maps each column of its training images that gives no attributes to the reason.
    """

    num_features = FEATURES

    def __init__(self, channels: int, attributes: tuple[Attribute, ...], unusable: Mapping[str, str]) -> None:
        super().__init__()
        self.channels, self.attributes, self.unusable = channels, attributes, dict(unusable)
        self.body = nn.Sequential(
            *_block(channels, 32, 5, 2),
            *_block(32, 64, 3, 1),
            *_block(64, 128, 3, 2),
            *_block(128, 128, 3, 1),
            nn.Conv2d(128, FEATURES, 1),
        ).to(memory_format=torch.channels_last)
        self.head = nn.Linear(FEATURES, len(attributes))

    def forward(self, images: Tensor) -> Tensor:
        """Features, float32."""
        device = self.head.weight.device
        pixels = images.to(device).permute(0, 3, 1, 2).float().div_(255).sub_(0.5)
        with autocast(device, best_precision(device)):
            maps = self.body(pixels.contiguous(memory_format=torch.channels_last))
        return maps.float().mean(dim=(2, 3))

    @property
    def columns(self) -> list[tuple[str, list[int]]]:
        """Each column of the data with the indices of its attributes: one, or one per class of a label."""
        numbered = groupby(enumerate(self.attributes), key=lambda item: item[1].column)
        return [(column, [index for index, _ in items]) for column, items in numbered]

    @torch.inference_mode()
    def features(self, images: Images) -> Tensor:
        """Features (K, 128). Batches have one shape, so that no image's features depend on the others."""
        taken = [torch.empty((0, FEATURES))]
        for start in range(0, len(images), BATCH):
            chunk = torch.from_numpy(images[start : start + BATCH])
            rows = torch.arange(BATCH) % len(chunk)
            taken.append(self(chunk[rows])[: len(chunk)].cpu())
        return torch.cat(taken)

    def loss(self, features: Tensor, present: Tensor, absent: Tensor) -> Tensor:
        """Cross-entropy of the known columns, summed over columns and averaged over images.

        ``present`` and ``absent`` are 0 or 1.
        """
        logits, total = self.head(features), features.new_zeros(())
        for _, indices in self.columns:
            some, has, known = logits[:, indices], present[:, indices], (present + absent)[:, indices]
            if len(indices) > 1:
                total = total - (some.log_softmax(dim=1) * has).sum()
            else:
                total = total + functional.binary_cross_entropy_with_logits(some, has, known, reduction="sum")
        return total / len(features)

    @torch.inference_mode()
    def decide(self, features: Tensor) -> Indicators:
        """Decide from features which attributes each image has; exactly one of a label's classes."""
        logits = self.head(features.to(self.head.weight.device)).cpu().numpy()
        has = logits > 0
        for _, indices in self.columns:
            if len(indices) > 1:
                has[:, indices] = np.eye(len(indices), dtype=bool)[logits[:, indices].argmax(axis=1)]
        return has

    def correct(self, has: Indicators, present: Indicators, absent: Indicators) -> dict[str, tuple[int, int]]:
        """Per column: the number of images decided right, and the number of images whose value is known."""
        found = {}
        for column, indices in self.columns:
            known = (present | absent)[:, indices].all(axis=1)
            right = (has[:, indices] == present[:, indices]).all(axis=1)
            found[column] = int((right & known).sum()), int(known.sum())
        return found


def _block(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


def to_weights(network: Classifier) -> tuple[dict[str, Any], bytes]:
    """A classifier as its shape, a JSON object, and its weights, safetensors."""
    weights = safetensors.torch.save(
        {name: value.contiguous() for name, value in network.state_dict().items()}
    )
    attributes = [dataclasses.asdict(attribute) for attribute in network.attributes]
    return {"channels": network.channels, "attributes": attributes, "unusable": network.unusable}, weights


def from_weights(shape: dict[str, Any], weights: bytes) -> Classifier:
    """Inverse of :func:`to_weights`; raises ValueError for images of other than 1 or 3 channels."""
    if shape["channels"] not in (1, 3):
        raise ValueError(f"channels are {shape['channels']!r:.100}; allowed: 1 (grey) or 3 (RGB)")
    attributes = tuple(Attribute(**fields) for fields in shape["attributes"])
    network = Classifier(shape["channels"], attributes, shape["unusable"])
    network.load_state_dict(safetensors.torch.load(weights))
    return network.eval()
