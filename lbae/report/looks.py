"""What an evaluation looks at: test images, what a bundle makes of them, and samples, as features and sums.

One call looks at one block of one stream of images; blocks do not depend on who looks at them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import UInt8
from torchmetrics.image import LearnedPerceptualImagePatchSimilarity

from lbae.core.bundle import Bundle
from lbae.core.interpolation import interpolate
from lbae.core.packing import pack
from lbae.core.prior import BLOCK, Prior
from lbae.io.attributes import indicators
from lbae.io.decode import decode_rows
from lbae.io.source import Shard, read_shard, row_digests
from lbae.report.classifier import Classifier
from lbae.report.pixels import pixel_sums
from lbae.report.rates import recompressed
from lbae.report.streams import KNOWN, MIDPOINTS, RECONSTRUCTIONS, RIGHT, TEST, TRAIN, Rules, Seen

Images = UInt8[np.ndarray, "K H W C"]

BLOCK_ROWS = 8 * BLOCK
SHOWN = 256


class Extractor(Protocol):
    """A network whose features are compared; they are ``num_features`` numbers."""

    num_features: int

    def features(self, images: Images) -> torch.Tensor:
        """Features (K, D), float32."""


@dataclass(frozen=True, kw_only=True)
class Looker:
    """What it takes to look: a bundle, priors by name, the networks, the protocol's rules, how many samples, their seed."""

    bundle: Bundle
    priors: Mapping[str, Prior]
    extractor: Extractor
    classifier: Classifier | None
    lpips: LearnedPerceptualImagePatchSimilarity | None
    rules: Rules
    samples: int
    seed: int

    def to(self, device: str) -> "Looker":
        """The same with its networks on a device."""
        for network in (self.extractor, self.classifier, self.lpips):
            if isinstance(network, torch.nn.Module):
                network.to(device)
        return replace(self, bundle=replace(self.bundle, codec=self.bundle.codec.to(device)))

    def at_test(self, shard: Shard, index: int, reference: bool) -> list[Seen]:
        """Test images (if their features are not known), their reconstructions, and the middles of paths between them."""
        rows = read_shard(shard)
        decoded = decode_rows(rows, self.bundle.codec.config)
        images, seen = decoded.images, []
        latents = self.bundle.encode(images)
        rebuilt = self.bundle.decode(latents)
        # A closed path through all of them has as many middles as there are images.
        around = np.concatenate([latents, latents[:1]])
        middles = self.bundle.decode(interpolate(self.bundle.normals, around, 3, self.seed + index)[1::2])
        if reference:
            seen.append(replace(self._look(TEST, index, images), sums=self._right(images, decoded.rows)))
        errors = pixel_sums(images, rebuilt, self.lpips) | {"bad": float(len(decoded.quarantine))}
        both = np.concatenate([images[:SHOWN], rebuilt[:SHOWN]]) if index == 0 else None
        look = self._look(RECONSTRUCTIONS, index, rebuilt)
        seen.append(replace(look, latents=pack(latents), digests=row_digests(rows), sums=errors, shown=both))
        return [*seen, self._look(MIDPOINTS, index, middles)]

    def at_training(self, shard: Shard, index: int) -> list[Seen]:
        """Training images."""
        return [self._look(TRAIN, index, decode_rows(read_shard(shard), self.bundle.codec.config).images)]

    def at_samples(self, name: str, index: int) -> list[Seen]:
        """Samples of a prior."""
        first = index * BLOCK_ROWS
        latents, _ = self.priors[name].draw(first, min(first + BLOCK_ROWS, self.samples), self.seed, {})
        return [replace(self._look(name, index, self.bundle.decode(latents)), latents=pack(latents))]

    def _look(self, stream: str, index: int, images: Images) -> Seen:
        shown = images[:SHOWN] if index == 0 else None
        if self.rules == "paper":
            images = np.stack([recompressed(image, "jpeg")[1] for image in images])
        return Seen(stream=stream, index=index, features=self.extractor.features(images).numpy(), shown=shown)

    def _right(self, images: Images, rows: pa.Table) -> dict[str, float]:
        """Of every column that the classifier knows and the images have: how many are classified right, how many known."""
        network = self.classifier
        if network is None or any(a.column not in rows.column_names for a in network.attributes):
            return {}
        counts = network.correct(network.decide(network.features(images)), *indicators(rows, network.attributes))
        right = {f"{RIGHT} {column}": float(count) for column, (count, _) in counts.items()}
        return right | {f"{KNOWN} {column}": float(count) for column, (_, count) in counts.items()}
