"""A small classifier of a data set's attributes: its features stand in for Inception's, and it says what
edits changed.

It needs labels or attributes, but no weights from anywhere. Distances in its features compare priors of one
data set with each other and with nothing published.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.torch
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor, nn
from torch.nn import functional

from lbae.config import ModelConfig
from lbae.core.network.codec import autocast, best_precision
from lbae.errors import UserError
from lbae.io.artifacts.attribute_columns import (
    Attribute,
    attributes_of,
    candidate_columns,
    column_values,
    indicators,
    why_unusable,
)
from lbae.io.sources.decode import decode_rows
from lbae.io.sources.source import Shard, read_shard

FEATURES = 128
SETTINGS = {"epochs": 6, "least_steps": 120, "seed": 0}
_BATCH = 256
_LEARNING_RATE = 3e-3

Images = UInt8[np.ndarray, "K H W C"]
Indicators = Bool[np.ndarray, "K A"]


class Classifier(nn.Module):
    """uint8 images (K, H, W, C) to features (K, 128), the input of a linear head with one logit an attribute.

    ``unusable`` are columns of its training images that make no attributes, with why.
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
        """The columns of the data and which attributes each became: the classes of a label, or one that is
        set or not.
        """
        numbered = groupby(enumerate(self.attributes), key=lambda item: item[1].column)
        return [(column, [index for index, _ in items]) for column, items in numbered]

    @torch.inference_mode()
    def features(self, images: Images) -> Tensor:
        """Features (K, 128) in batches of one shape, so that none depends on the other images."""
        taken = [torch.empty((0, FEATURES))]
        for start in range(0, len(images), _BATCH):
            chunk = torch.from_numpy(images[start : start + _BATCH])
            rows = torch.arange(_BATCH) % len(chunk)
            taken.append(self(chunk[rows])[: len(chunk)].cpu())
        return torch.cat(taken)

    def loss(self, features: Tensor, present: Tensor, absent: Tensor) -> Tensor:
        """Cross-entropy a known column, summed over columns, averaged over images; ``present`` and ``absent``
        are 0 or 1.
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
        """Which attributes images have by their features: of a label's classes exactly one."""
        logits = self.head(features.to(self.head.weight.device)).cpu().numpy()
        has = logits > 0
        for _, indices in self.columns:
            if len(indices) > 1:
                has[:, indices] = np.eye(len(indices), dtype=bool)[logits[:, indices].argmax(axis=1)]
        return has

    def correct(self, has: Indicators, present: Indicators, absent: Indicators) -> dict[str, tuple[int, int]]:
        """Of every column how many images are decided as they are, and how many are known."""
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


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Images with which of some attributes they have, and which they are known not to have.

    ``unusable`` are columns that make no attributes, with why.
    """

    images: Images
    attributes: tuple[Attribute, ...]
    present: Indicators
    absent: Indicators
    unusable: Mapping[str, str]


def read_examples(shards: Sequence[Shard], config: ModelConfig) -> Examples | str:
    """The decodable images of some shards with all their attributes; where they have none, what they have
    instead.
    """
    images, rows = [], []
    others: dict[str, None] = {}
    for shard in shards:
        decoded = decode_rows(read_shard(shard), config)
        images.append(decoded.images)
        others |= dict.fromkeys(decoded.rows.column_names[2:])  # after key and path
        rows.append(decoded.rows.select(candidate_columns(decoded.rows.schema)))
    table = pa.concat_tables(rows, promote_options="default")
    found: list[Attribute] = []
    unusable: dict[str, str] = {}
    for name, seen in column_values(table, table.column_names).items():
        if why := why_unusable(seen):
            unusable[name] = why
            continue
        try:
            found += attributes_of(name, seen)
        except UserError:  # a mistake where columns are chosen, but here nobody asked for this one
            unusable[name] = "-1 among its classes, which nearly always means unknown: make it null"
    if unusable and not found:
        return (
            f"only columns that cannot be used"
            f" ({'; '.join(f'{name}: {why}' for name, why in unusable.items())})"
        )
    if not found:
        return f"no label or attribute column (columns: {', '.join(others) or 'none but the image'})"
    attributes = tuple(found)
    present, absent = indicators(table, attributes)
    return Examples(
        images=np.concatenate(images),
        attributes=attributes,
        present=present,
        absent=absent,
        unusable=unusable,
    )


def train_classifier(
    examples: Examples,
    *,
    epochs: int,
    least_steps: int,
    seed: int,
    device: str,
    on_epoch: Callable[[int, int, float], None] = lambda done, total, loss: None,
) -> Classifier:
    """A classifier of the attributes, trained on that device, for more epochs where these have few steps.

    Half of the batches of colour images are mirrored. ``on_epoch`` hears of epochs done and in all, and the
    mean loss.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    images, flip = examples.images, examples.images.shape[3] == 3
    network = Classifier(images.shape[3], examples.attributes, examples.unusable).to(device)
    present, absent = (torch.from_numpy(x).float().to(device) for x in (examples.present, examples.absent))
    steps = max(1, len(images) // _BATCH)
    epochs = max(epochs, -(-least_steps // steps))
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=epochs * steps)
    for epoch in range(epochs):
        order, total = rng.permutation(len(images)), 0.0
        for step in range(steps):
            index = order[step * _BATCH : (step + 1) * _BATCH]
            batch = torch.from_numpy(images[index])
            seen = network(batch.flip(2) if flip and rng.random() < 0.5 else batch)
            loss = network.loss(seen, present[index], absent[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        on_epoch(epoch + 1, epochs, total / steps)
    return network.cpu().eval()


def to_weights(network: Classifier) -> tuple[dict[str, Any], bytes]:
    """A classifier as its shape, a JSON object, and its weights, safetensors."""
    weights = safetensors.torch.save(
        {name: value.contiguous() for name, value in network.state_dict().items()}
    )
    attributes = [dataclasses.asdict(attribute) for attribute in network.attributes]
    return {"channels": network.channels, "attributes": attributes, "unusable": network.unusable}, weights


def from_weights(shape: dict[str, Any], weights: bytes) -> Classifier:
    """Inverse of :func:`to_weights`."""
    attributes = tuple(Attribute(**fields) for fields in shape["attributes"])
    network = Classifier(shape["channels"], attributes, shape["unusable"])
    network.load_state_dict(safetensors.torch.load(weights))
    return network.eval()
