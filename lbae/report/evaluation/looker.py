"""What an evaluation looks at: test images, what a bundle makes of them, and samples, as features and sums.

One call looks at one block of one stream of images; blocks do not depend on who looks at them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Int64, UInt8
from torchmetrics.image import LearnedPerceptualImagePatchSimilarity

from lbae.core.bundle import Bundle
from lbae.core.latents.interpolation import interpolate
from lbae.core.latents.packing import pack, unpack
from lbae.core.prior.prior import BLOCK, Prior
from lbae.io.artifacts.attribute_columns import can_hold, indicators
from lbae.io.sources.decode import Decoded, decode_rows
from lbae.io.sources.source import Shard, file_digests, read_shard
from lbae.report.evaluation.rates import recompressed
from lbae.report.evaluation.streams import (
    BAD,
    KNOWN,
    MIDPOINTS,
    RECONSTRUCTIONS,
    RIGHT,
    TEST,
    TRAIN,
    Rules,
    Seen,
)
from lbae.report.features.classifier import Classifier
from lbae.report.features.feature_sums import drawn_rows
from lbae.report.features.pixels import pixel_sums

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
    """What it takes to look: a bundle, priors by name, the networks, the protocol's rules, a seed.

    ``samples`` are drawn of every prior: as many as the source of test images has rows.
    """

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
        return replace(self, bundle=self.bundle.to(device))

    def at_test(self, shard: Shard, index: int, reference: bool) -> list[Seen]:
        """Test images (if their features are not known) and their reconstructions."""
        rows = read_shard(shard)
        decoded = decode_rows(rows, self.bundle.codec.config)
        images, places, seen = decoded.images, _places(rows, decoded, shard.start), []
        latents = self.bundle.encode(images)
        rebuilt = self.bundle.decode(latents)
        if reference:
            seen.append(
                replace(self._look(TEST, index, places, images), sums=self._right(images, decoded.rows))
            )
        errors = pixel_sums(images, rebuilt, self.lpips) | {BAD: float(len(decoded.quarantine))}
        shown = np.isin(places, drawn_rows(self.samples, SHOWN))
        look = replace(
            self._look(RECONSTRUCTIONS, index, places, rebuilt),
            latents=pack(latents),
            digests=file_digests(rows),
            sums=errors,
            shown=np.stack([images[shown], rebuilt[shown]], axis=1),
        )
        return [*seen, look]

    def at_training(self, shard: Shard, index: int, start: int) -> list[Seen]:
        """Training images, the first of which has place ``start`` among those looked at."""
        rows = read_shard(shard)
        decoded = decode_rows(rows, self.bundle.codec.config)
        look = self._look(TRAIN, index, _places(rows, decoded, start), decoded.images)
        return [replace(look, sums={BAD: float(len(decoded.quarantine))})]

    def at_samples(self, name: str, index: int) -> list[Seen]:
        """Samples of a prior."""
        first = index * BLOCK_ROWS
        latents, _ = self.priors[name].draw(first, min(first + BLOCK_ROWS, self.samples), self.seed, {})
        images, places = self.bundle.decode(latents), first + np.arange(len(latents))
        look = self._look(name, index, places, images)
        return [replace(look, latents=pack(latents), shown=images[places < SHOWN])]

    def at_midpoints(self, packed: UInt8[np.ndarray, "K B"], index: int) -> Seen:
        """The middles of paths between a block of latents, from each to the next and from the last to the
        first.
        """
        latents = unpack(packed, self.bundle.codec.config.latent_dim)
        around = np.concatenate([latents, latents[:1]])
        middles = self.bundle.decode(interpolate(self.bundle.normals, around, 3, self.seed + index)[1::2])
        return self._look(MIDPOINTS, index, index * BLOCK_ROWS + np.arange(len(latents)), middles)

    def _look(self, stream: str, index: int, places: Int64[np.ndarray, "K"], images: Images) -> Seen:
        if self.rules == "paper":
            compressed = [recompressed(image, "jpeg")[1] for image in images]
            images = np.array(compressed, dtype=np.uint8).reshape(images.shape)
        return Seen(
            stream=stream, index=index, places=places, features=self.extractor.features(images).numpy()
        )

    def _right(self, images: Images, rows: pa.Table) -> dict[str, float]:
        """Of every column of the classifier's how many images are classified right, and of how many it is
        known.

        It is known of none where the images have no such column, or one that cannot hold the training images'
        values.
        """
        network = self.classifier
        if network is None:
            return {}
        names, attributes = rows.column_names, network.attributes
        usable = [
            i for i, a in enumerate(attributes) if a.column in names and can_hold(rows[a.column].type, a)
        ]
        known = np.zeros((2, len(images), len(attributes)), dtype=bool)
        known[:, :, usable] = indicators(rows, tuple(attributes[i] for i in usable))
        counts = network.correct(network.decide(network.features(images)), *known)
        right = {f"{RIGHT} {column}": float(count) for column, (count, _) in counts.items()}
        return right | {f"{KNOWN} {column}": float(count) for column, (_, count) in counts.items()}


def _places(rows: pa.Table, decoded: Decoded, start: int) -> Int64[np.ndarray, "K"]:
    """Where the images that could be decoded stand in their stream."""
    bad = pc.is_in(rows["key"], value_set=decoded.quarantine["key"].combine_chunks()).to_numpy()
    places: np.ndarray = start + np.flatnonzero(~bad)
    return places
