"""Variations of latents: new latents of the component that a latent most likely belongs to.

Under a component, the sides of a latent are x ~ N(c, R), R = L LT: c is column 0 of the component's factor,
and L the columns after it. A latent b is given its mean sides x = E[x | b]. These are mixed with a new draw:

    x' = c + sqrt(1 - s) (x - c) + sqrt(s) L z,   z ~ N(0, I)

The variation is sign(x'). At strength s = 0 it is b itself, and at 1 a sample of the component.

For the mean sides R is (1 - e) R + e I, with e the share of a side's variance that no other side explains. A
component of fewer rows than bits has a singular R, under which no other latent has any probability: sides are
then near 0, and the least new randomness changes a quarter of the bits (docs/measurements.md).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Float32, Float64, Int8, Int64
from scipy import special

from lbae.core.latents.packing import pack
from lbae.core.prior.dichotomised_gaussian import DichotomisedGaussian, models_to_cache
from lbae.core.prior.prior import Prior
from lbae.errors import UserError

_UNEXPLAINED = 0.3  # e
_CONSTANT = 4.0  # shift of a bit that is constant in its component: its other value is as rare as 1 in 30,000


@dataclass(frozen=True)
class Variations:
    """Variations of latents under a prior."""

    prior: Prior

    def __getstate__(self) -> dict[str, object]:
        """Pickle the fields without the models computed from them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def vary(
        self, latents: Int8[np.ndarray, "K N"], count: int, seed: int, strength: float
    ) -> Int8[np.ndarray, "V N"]:
        """``count`` variations of each latent, those of one latent together (V = K * count).

        Variation i of a latent depends only on the prior, the latent, ``seed``, ``strength`` and i. UserError
        for a count below 1, a strength outside [0, 1], or a prior whose sampler has no thresholds.
        """
        if count < 1 or not 0 <= strength <= 1:
            raise UserError(
                f"count is {count} and strength {strength}; allowed: count from 1, strength from 0 (the image"
                " itself) to 1 (a sample)"
            )
        varied = np.empty((len(latents), count, latents.shape[1]), dtype=np.int8)
        for row, component in enumerate(self.components(latents).tolist()):
            model, rows = self._model(component), self._bits(component)
            known = math.sqrt(1 - strength) * (model.sides(latents[row : row + 1]) - model.shifts)
            drawn = _normals(latents[row], count, seed, rows.shape[1] - 1) @ rows[:, 1:].T
            drawn *= math.sqrt(strength)
            varied[row] = np.where(drawn >= -(model.shifts + known), np.int8(1), np.int8(-1))
        return varied.reshape(-1, latents.shape[1])

    def components(self, latents: Int8[np.ndarray, "K N"]) -> Int64[np.ndarray, "K"]:
        """The component that each latent most likely belongs to, as if its bits were independent.

        UserError for a prior whose sampler has no thresholds.
        """
        if self.prior.sampler != "gaussian":
            raise UserError(
                f"the bundle's sampler is {self.prior.sampler}, which has no thresholds to vary an image"
                " about; fit the bundle with --sampler gaussian"
            )
        shifts = self.prior.factors[:, -self.prior.latent_dim :, 0].astype(np.float64)
        on, off = special.log_ndtr(shifts), special.log_ndtr(-shifts)  # log likelihoods of +1 and of -1
        likely = latents @ (on - off).T / 2 + (on + off).sum(axis=1) / 2 + np.log(self.prior.weights)
        found: Int64[np.ndarray, " K"] = likely.argmax(axis=1)
        return found

    def _bits(self, component: int) -> Float64[np.ndarray, "N M"]:
        """The rows of a component's factor that belong to bits.

        Float64, because products in float32 would depend on the number of variations.
        """
        return self.prior.factors[component, -self.prior.latent_dim :].astype(np.float64)

    @cached_property
    def _model(self) -> Callable[[int], DichotomisedGaussian]:
        """The model of a component; the last used are cached."""

        def model(component: int) -> DichotomisedGaussian:
            rows = self._bits(component)
            constant = ~rows[:, 1:].any(axis=1)
            correlation = (1 - _UNEXPLAINED) * (rows[:, 1:] @ rows[:, 1:].T)
            np.fill_diagonal(correlation, 1.0)
            shifts = np.where(constant, _CONSTANT * rows[:, 0], rows[:, 0])
            return DichotomisedGaussian(shifts=shifts, correlation=correlation)

        return lru_cache(models_to_cache(self.prior.latent_dim))(model)


def _normals(
    latent: Int8[np.ndarray, "N"], count: int, seed: int, size: int
) -> Float32[np.ndarray, "{count} {size}"]:
    """Normals of the variations of a latent; those of each variation have a random stream of their own."""
    own = int.from_bytes(pack(latent[None]).tobytes())
    streams = [np.random.Philox(np.random.SeedSequence((seed, i, own))) for i in range(count)]
    return np.array([np.random.Generator(stream).standard_normal(size, np.float32) for stream in streams])
