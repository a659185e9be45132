"""A trained system in one object: codec, prior, normals and attribute statistics, with the public verbs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int8, UInt8

from lbae.core.latents.editing import edit
from lbae.core.latents.interpolation import interpolate
from lbae.core.latents.normals import Normals
from lbae.core.latents.value_models import ValueModels
from lbae.core.moments.attribute_statistics import AttributeStatistics
from lbae.core.network.codec import Codec
from lbae.core.prior.prior import Prior

Images = UInt8[np.ndarray, "K H W C"]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What sampling, interpolation and editing need, and a few images to try them on, if any.

    Bundles of older versions, and those without attributes, have no models of values. Images are uint8 (K, H,
    W, C) of the model's content size.
    """

    fingerprint: str
    codec: Codec
    prior: Prior
    normals: Normals
    attributes: AttributeStatistics
    values: ValueModels | None
    examples: Images

    def to(self, device: torch.device | str) -> "Bundle":
        """Return this bundle with its codec on another device; the network itself moves there."""
        return replace(self, codec=self.codec.to(device))

    def encode(self, images: Images) -> Int8[np.ndarray, "K N"]:
        """Latents of +1 and -1."""
        return self.codec.encode(images)

    def decode(self, latents: Int8[np.ndarray, "K N"]) -> Images:
        """Images of latents."""
        return self.codec.decode(latents)

    def reconstruct(self, images: Images) -> Images:
        """Images through the bottleneck and back."""
        return self.decode(self.encode(images))

    def sample(self, count: int, seed: int, given: Mapping[str, bool] | None = None) -> Images:
        """``count`` new images, with attributes as ``given``.

        Image i depends only on the bundle, seed, ``given`` and i.
        """
        return self.decode(self.prior.sample_given(count, seed, given or {})[0])

    def interpolate(self, images: Images, steps: int) -> UInt8[np.ndarray, "F H W C"]:
        """Frames of a path through the reconstructions of two or more images.

        Each leg has ``steps`` frames, both its ends included.
        """
        return self.decode(interpolate(self.normals, self.encode(images), steps))

    def edit(
        self,
        images: Images,
        set_: Sequence[str] = (),
        unset: Sequence[str] = (),
        strength: float = 1.0,
        method: str = "exchange",
    ) -> tuple[Images, np.ndarray]:
        """Images with attributes set and unset, and how many bits changed in each.

        UserError for a method that is neither exchange nor bits; see :mod:`lbae.core.latents.editing`.
        """
        latents = self.encode(images)
        edited = edit(self.attributes, self.values, latents, set_, unset, strength, method)
        return self.decode(edited), (edited != latents).sum(axis=1)
