"""What was seen of images, block by block and stream by stream, added up."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8, UInt64

from lbae.report.features import FeatureSums

Images = UInt8[np.ndarray, "K H W C"]
Rules = Literal["ours", "paper"]

TEST, TRAIN, RECONSTRUCTIONS, MIDPOINTS = "test images", "training images", "reconstructions", "interpolation mid-points"
RIGHT, KNOWN = "right", "known"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One block of a stream: features, packed latents, sums over its images, and the first images of the first block."""

    stream: str
    index: int
    features: Float32[np.ndarray, "K D"]
    latents: UInt8[np.ndarray, "K B"] | None = None
    digests: UInt64[np.ndarray, "K"] | None = None
    sums: Mapping[str, float] = field(default_factory=dict)
    shown: Images | None = None


class Stream:
    """The blocks of one stream, added up in their order however they come."""

    def __init__(self, dim: int) -> None:
        self.features = FeatureSums.empty(dim)
        self.sums: Counter[str] = Counter()
        self.shown: Images | None = None
        self._latents: list[np.ndarray] = []
        self._digests: list[np.ndarray] = []
        self._waiting: dict[int, Seen] = {}
        self._next = 0

    def add(self, seen: Seen) -> None:
        """Add a block, as soon as all before it are there."""
        self._waiting[seen.index] = seen
        while (block := self._waiting.pop(self._next, None)) is not None:
            self.features.add(block.features)
            self.sums.update(block.sums)
            self._latents += [] if block.latents is None else [block.latents]
            self._digests += [] if block.digests is None else [block.digests]
            self.shown = block.shown if self.shown is None else self.shown
            self._next += 1

    @property
    def latents(self) -> UInt8[np.ndarray, "K B"]:
        """All of them, packed."""
        return np.concatenate(self._latents)

    @property
    def digests(self) -> UInt64[np.ndarray, "K"]:
        """Of the bytes of all images."""
        return np.concatenate(self._digests)
