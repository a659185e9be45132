"""Features and sums of an evaluation's images: test and training images, reconstructions, samples, midpoints.

One call makes one block of a stream. A block does not depend on the process that makes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Int64, UInt8

from lbae.core.bundle import Bundle
from lbae.core.latents.interpolation import interpolate
from lbae.core.latents.packing import pack, unpack
from lbae.core.prior.prior import BLOCK, Prior
from lbae.io.artifacts.attribute_columns import can_hold, indicators
from lbae.io.sources.decode import Decoded, decode_rows
from lbae.io.sources.hashes import file_digests
from lbae.io.sources.source import Shard, read_shard
from lbae.report.evaluation.lossy_formats import recompressed
from lbae.report.evaluation.streams import (
    BAD,
    FOUND,
    KNOWN,
    MEMBERS,
    MIDPOINTS,
    RECONSTRUCTIONS,
    RIGHT,
    TEST,
    TRAIN,
    FeatureBlock,
    Rules,
)
from lbae.report.features.classifier import Classifier
from lbae.report.features.feature_sums import drawn_rows
from lbae.report.features.pixels import pixel_sums

if TYPE_CHECKING:
    from torchmetrics.image import LearnedPerceptualImagePatchSimilarity

Images = UInt8[np.ndarray, "K H W C"]

BLOCK_ROWS = 8 * BLOCK
SHOWN = 256


class FeatureNetwork(Protocol):
    """A network that gives ``num_features`` features per image; distances compare them."""

    num_features: int

    def features(self, images: Images) -> torch.Tensor:
        """Features (K, D), float32."""


@dataclass(frozen=True, kw_only=True)
class FeatureExtractor:
    """Makes blocks of features from a bundle, its priors by name, networks, a protocol and a seed.

    ``samples`` is the number of samples of each prior: as many as the source of test images has rows.
    """

    bundle: Bundle
    priors: Mapping[str, Prior]
    network: FeatureNetwork
    classifier: Classifier | None
    lpips: "LearnedPerceptualImagePatchSimilarity | None"
    rules: Rules
    samples: int
    seed: int

    def to(self, device: str) -> "FeatureExtractor":
        """This extractor with all networks on a device."""
        for network in (self.network, self.classifier, self.lpips):
            if isinstance(network, torch.nn.Module):
                network.to(device)
        return replace(self, bundle=self.bundle.to(device))

    def test_block(self, shard: Shard, index: int, reference: bool) -> list[FeatureBlock]:
        """Reconstructions of a shard of test images, and with ``reference`` the test images themselves."""
        rows = read_shard(shard)
        decoded = decode_rows(rows, self.bundle.codec.config)
        images, places = decoded.images, _places(rows, decoded, shard.start)
        latents = self.bundle.encode(images)
        rebuilt = self.bundle.decode(latents)
        made = self._block(RECONSTRUCTIONS, index, places, rebuilt)
        sums = pixel_sums(images, rebuilt, self.lpips) | self._found(rebuilt, made, decoded.rows)
        shown = np.isin(places, drawn_rows(self.samples, SHOWN))
        made = replace(
            made,
            latents=pack(latents),
            decisions=self.classifier.decide(self.classifier.features(images)) if self.classifier else None,
            digests=file_digests(rows),
            sums=sums | {BAD: float(len(decoded.quarantine))},
            shown=np.stack([images[shown], rebuilt[shown]], axis=1),
        )
        if not reference:
            return [made]
        tested = self._block(TEST, index, places, images)
        return [replace(tested, sums=self._right(images, tested, decoded.rows)), made]

    def training_block(self, shard: Shard, index: int, start: int) -> list[FeatureBlock]:
        """A shard of training images; its first image has place ``start`` in the stream."""
        rows = read_shard(shard)
        decoded = decode_rows(rows, self.bundle.codec.config)
        block = self._block(TRAIN, index, _places(rows, decoded, start), decoded.images)
        return [replace(block, sums={BAD: float(len(decoded.quarantine))})]

    def sample_block(self, name: str, index: int) -> list[FeatureBlock]:
        """A block of samples of a prior."""
        first = index * BLOCK_ROWS
        latents, _ = self.priors[name].draw(first, min(first + BLOCK_ROWS, self.samples), self.seed, {})
        images, places = self.bundle.decode(latents), first + np.arange(len(latents))
        block = self._block(name, index, places, images)
        return [replace(block, latents=pack(latents), shown=images[places < SHOWN])]

    def midpoint_block(self, packed: UInt8[np.ndarray, "K B"], index: int) -> FeatureBlock:
        """The midpoints of paths from each latent to the next, and from the last to the first."""
        latents = unpack(packed, self.bundle.codec.config.latent_dim)
        around = np.concatenate([latents, latents[:1]])
        middles = self.bundle.decode(interpolate(self.bundle.normals, around, 3, self.seed + index)[1::2])
        return self._block(MIDPOINTS, index, index * BLOCK_ROWS + np.arange(len(latents)), middles)

    def _block(self, stream: str, index: int, places: Int64[np.ndarray, "K"], images: Images) -> FeatureBlock:
        if self.rules == "paper":
            compressed = [recompressed(image, "jpeg")[1] for image in images]
            images = np.array(compressed, dtype=np.uint8).reshape(images.shape)
        return FeatureBlock(
            stream=stream, index=index, places=places, features=self.network.features(images).numpy()
        )

    def _decided(
        self, classifier: Classifier, images: Images, block: FeatureBlock
    ) -> Bool[np.ndarray, "K A"]:
        """What the classifier decides on images; from the features of their block where it made them."""
        if self.network is classifier and self.rules == "ours":
            return classifier.decide(torch.from_numpy(block.features))
        return classifier.decide(classifier.features(images))

    def _right(self, images: Images, block: FeatureBlock, rows: pa.Table) -> dict[str, float]:
        """Per column of the classifier: for how many images it is right, and for how many this is known.

        Both are 0 where the images have no such column, or one of a type that cannot hold the values of the
        training images.
        """
        network = self.classifier
        if network is None:
            return {}
        counts = network.correct(self._decided(network, images, block), *self._known(rows))
        right = {f"{RIGHT} {column}": float(count) for column, (count, _) in counts.items()}
        return right | {f"{KNOWN} {column}": float(count) for column, (_, count) in counts.items()}

    def _found(self, rebuilt: Images, block: FeatureBlock, rows: pa.Table) -> dict[str, float]:
        """Per attribute and value: how many images have it, and in how many of these reconstructions the
        classifier finds it.
        """
        network = self.classifier
        if network is None:
            return {}
        has, counts = self._decided(network, rebuilt, block), {}
        for value, members in zip((True, False), self._known(rows), strict=True):
            for j, attribute in enumerate(network.attributes):
                found = members[:, j] & (has[:, j] == value)
                counts[f"{MEMBERS} {attribute.name} {value}"] = float(members[:, j].sum())
                counts[f"{FOUND} {attribute.name} {value}"] = float(found.sum())
        return counts

    def _known(self, rows: pa.Table) -> Bool[np.ndarray, "2 K A"]:
        """Which of the classifier's attributes the rows are known to have, and which to lack."""
        assert self.classifier is not None
        names, attributes = rows.column_names, self.classifier.attributes
        usable = [
            i for i, a in enumerate(attributes) if a.column in names and can_hold(rows[a.column].type, a)
        ]
        known = np.zeros((2, len(rows), len(attributes)), dtype=bool)
        known[:, :, usable] = indicators(rows, tuple(attributes[i] for i in usable))
        return known


def _places(rows: pa.Table, decoded: Decoded, start: int) -> Int64[np.ndarray, "K"]:
    """The places of the decoded images in their stream."""
    bad = pc.is_in(rows["key"], value_set=decoded.quarantine["key"].combine_chunks()).to_numpy()
    places: np.ndarray = start + np.flatnonzero(~bad)
    return places
