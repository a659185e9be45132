"""The object users hold: a trained model with its prior, to sample, interpolate and edit images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int8, UInt8

from lbae.core.latents.editing import edit, move_to_given
from lbae.core.latents.guided_strength import GuidedEdit, edit_until
from lbae.core.latents.interpolation import interpolate
from lbae.core.latents.normals import Normals
from lbae.core.latents.value_models import ValueModels
from lbae.core.latents.variations import Variations
from lbae.core.moments.attribute_statistics import AttributeStatistics
from lbae.core.network.codec import Codec
from lbae.core.prior.prior import Prior

_SHORT = 12  # characters of a fingerprint that tell bundles apart

Images = UInt8[np.ndarray, "K H W C"]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """Everything that sampling, interpolation and editing need, and perhaps a few example images.

    Images are uint8 (K, H, W, C) of the model's content size. ``values`` is None in bundles of earlier
    versions and in bundles without attributes.
    """

    fingerprint: str
    codec: Codec
    prior: Prior
    normals: Normals
    attributes: AttributeStatistics
    values: ValueModels | None
    examples: Images

    def __repr__(self) -> str:
        return (
            f"Bundle(fingerprint={self.fingerprint[:_SHORT]!r},\n"
            f"       codec={self.codec!r},\n"
            f"       prior={self.prior!r},\n"
            f"       attributes={len(self.attributes)}, examples={len(self.examples)})"
        )

    def to(self, device: torch.device | str) -> "Bundle":
        """Return this bundle with its codec on another device; the network is moved, not copied."""
        return replace(self, codec=self.codec.to(device))

    def encode(self, images: Images) -> Int8[np.ndarray, "K N"]:
        """Encode images to latents of +1 and -1."""
        return self.codec.encode(images)

    def decode(self, latents: Int8[np.ndarray, "K N"]) -> Images:
        """Decode latents to images."""
        return self.codec.decode(latents)

    def reconstruct(self, images: Images) -> Images:
        """Encode images and decode their latents."""
        return self.decode(self.encode(images))

    def sample(
        self, count: int, seed: int, given: Mapping[str, bool] | None = None, temperature: float = 1.0
    ) -> Images:
        """Draw ``count`` new images with attributes as ``given`` (name to True or False).

        Below a ``temperature`` of 1 images are more typical and differ less; it may be 0 to 2. Image i
        depends only on the bundle, ``seed``, ``given``, ``temperature`` and i, not on ``count``. Raises the
        errors of :meth:`lbae.core.prior.prior.Prior.sample_given` and :meth:`lbae.core.prior.prior.Prior.at`.
        """
        latents, _ = self.prior.at(temperature).sample_given(count, seed, given or {})
        return self.decode(self.move_to_given(latents, given or {}))

    def move_to_given(
        self, latents: Int8[np.ndarray, "K N"], given: Mapping[str, bool]
    ) -> Int8[np.ndarray, "K N"]:
        """Edit latents that the prior drew with attributes as ``given``, so that their images show them.

        See :func:`lbae.core.latents.editing.move_to_given`.
        """
        return move_to_given(self.attributes, self.values, latents, given)

    def vary(
        self, images: Images, count: int, seed: int, strength: float = 0.3
    ) -> UInt8[np.ndarray, "V H W C"]:
        """``count`` variations of each image, those of one image together (V = K * count).

        At ``strength`` 0 they are the image's reconstruction, at 1 samples that look like it only roughly.
        Variation i depends only on the bundle, the image, ``seed``, ``strength`` and i. Raises the errors of
        :meth:`lbae.core.latents.variations.Variations.vary`.
        """
        return self.decode(self.variations.vary(self.encode(images), count, seed, strength))

    @cached_property
    def variations(self) -> Variations:
        """Variations of latents under the bundle's prior."""
        return Variations(self.prior)

    def interpolate(self, images: Images, steps: int) -> UInt8[np.ndarray, "F H W C"]:
        """Frames of a path through the reconstructions of two or more images.

        Each leg has ``steps`` frames, including both its ends.
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
        """Return images with attributes set and unset, and the number of bits changed in each.

        The arguments and errors are those of :func:`lbae.core.latents.editing.edit`.
        """
        latents = self.encode(images)
        edited = edit(self.attributes, self.values, latents, set_, unset, strength, method)
        return self.decode(edited), (edited != latents).sum(axis=1)

    def edit_until(
        self, images: Images, set_: Sequence[str] = (), unset: Sequence[str] = (), until: float = 0.9
    ) -> GuidedEdit:
        """Edit images at the least strength that reaches the confidence ``until``, in (0, 1).

        See :func:`lbae.core.latents.guided_strength.edit_until`.
        """
        latents = self.encode(images)
        return edit_until(self.codec, self.attributes, self.values, latents, set_, unset, until)
