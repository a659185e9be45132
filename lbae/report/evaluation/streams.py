"""Streams of images: their features, sums and latents, added up from blocks in order."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8, UInt64

from lbae.report.features.feature_sums import KEPT, FeatureSums, drawn_rows

Rules = Literal["ours", "paper"]
PROTOCOL_VERSION = 3  # figures of different versions cannot be compared

TEST, TRAIN, RECONSTRUCTIONS, MIDPOINTS = (
    "test images",
    "training images",
    "reconstructions",
    "interpolation mid-points",
)
RIGHT, KNOWN, BAD = "right", "known", "undecodable"
MEMBERS, FOUND = "images with", "found in reconstructions with"


@dataclass(frozen=True, kw_only=True)
class FeatureBlock:
    """The features of one block of a stream, with the places of its images in the stream.

    Some blocks also have packed latents, what the classifier decides on the original images, digests of the
    image files, sums over the images, and images to show. An undecodable image has a place and perhaps a
    digest, but no features.
    """

    stream: str
    index: int
    places: Int64[np.ndarray, "K"]
    features: Float32[np.ndarray, "K D"]
    latents: UInt8[np.ndarray, "K B"] | None = None
    decisions: Bool[np.ndarray, "K A"] | None = None
    digests: UInt64[np.ndarray, "R"] | None = None
    sums: Mapping[str, float] = field(default_factory=dict)
    shown: np.ndarray | None = None


class Stream:
    """A stream of at most ``rows`` rows; its blocks are added up by index, in whatever order they arrive."""

    def __init__(self, dim: int, rows: int) -> None:
        self.features = FeatureSums.empty(dim)
        self.sums: Counter[str] = Counter()
        self._kept = drawn_rows(rows, KEPT)
        self._shown: list[np.ndarray] = []
        self._latents: list[np.ndarray] = []
        self._decisions: list[np.ndarray] = []
        self._digests: list[np.ndarray] = []
        self._waiting: dict[int, FeatureBlock] = {}
        self._next = 0

    def add(self, arrived: FeatureBlock) -> None:
        """Add a block as soon as all blocks before it have arrived."""
        self._waiting[arrived.index] = arrived
        while (block := self._waiting.pop(self._next, None)) is not None:
            self.features.add(block.features, np.isin(block.places, self._kept))
            self.sums.update(block.sums)
            self._latents += [] if block.latents is None else [block.latents]
            self._decisions += [] if block.decisions is None else [block.decisions]
            self._digests += [] if block.digests is None else [block.digests]
            self._shown += [] if block.shown is None else [block.shown]
            self._next += 1

    @property
    def shown(self) -> UInt8[np.ndarray, "K *P H W C"]:
        """Images to show; in the stream of reconstructions, pairs (P = 2) of image and reconstruction."""
        return np.concatenate(self._shown)

    @property
    def latents(self) -> UInt8[np.ndarray, "K B"]:
        """All latents, packed."""
        return np.concatenate(self._latents)

    @property
    def decisions(self) -> Bool[np.ndarray, "K A"]:
        """Which attributes the classifier finds in the original images."""
        return np.concatenate(self._decisions)

    @property
    def digests(self) -> UInt64[np.ndarray, "R"]:
        """Digests of the bytes of all images that have bytes."""
        return np.concatenate(self._digests)
