"""A dichotomised Gaussian (Macke et al. 2009) as a model of latents: bits are the signs of Gaussian sides.

The sides x ~ N(c, R) have unit variances; bit i is +1 where x_i > 0. Bits have the means m = 2 Phi(c) - 1 and
covariances 4 (P(x_i > 0, x_j > 0) - P(x_i > 0) P(x_j > 0)).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int8
from scipy import linalg, special

from lbae.core.prior.gaussian import bit_means, upper_quadrant

_PASSES = 4  # more bring sides no nearer to their means (docs/measurements.md)
_LEAST = 1e-6  # mean and variance of a side in the tail, and what bits tell, against rounding
_LOG_DENSITY = -0.5 * np.log(2 * np.pi)
_CACHE_BYTES = 2**29
_MATRICES = 4  # float64 matrices of a model: three that it keeps, and one while they are computed


def model_bytes(bits: int) -> int:
    """The memory of a model of this many bits that is in use."""
    return _MATRICES * 8 * bits**2


def models_to_cache(bits: int) -> int:
    """How many models of this many bits fit in about half a gibibyte; at least 2."""
    return max(2, _CACHE_BYTES // model_bytes(bits))


@dataclass(frozen=True, kw_only=True)
class DichotomisedGaussian:
    """Latents of N bits with sides x ~ N(c, R): ``shifts`` c, and a positive definite ``correlation`` R."""

    shifts: Float64[np.ndarray, "N"]
    correlation: Float64[np.ndarray, "N N"]

    @cached_property
    def mean(self) -> Float64[np.ndarray, "N"]:
        """E[b]."""
        return bit_means(self.shifts)

    @property
    def covariance(self) -> Float64[np.ndarray, "N N"]:
        """Covariance of the bits."""
        share, found = (self.mean + 1) / 2, np.diag(1 - self.mean**2)
        i, j = np.triu_indices(len(share), 1)
        both = upper_quadrant(-self.shifts[i], -self.shifts[j], self.correlation[i, j])
        found[i, j] = found[j, i] = 4 * (both - share[i] * share[j])
        return found

    def whitened(self, sides: Float64[np.ndarray, "K N"]) -> Float64[np.ndarray, "K N"]:
        """R^(-1/2) (x - c) with the symmetric root: independent standard normals, if the sides are draws."""
        values, vectors = self._eigen
        return (((sides - self.shifts) @ vectors) / np.sqrt(values)) @ vectors.T

    def coloured(self, white: Float64[np.ndarray, "K N"]) -> Float64[np.ndarray, "K N"]:
        """The sides c + R^(1/2) w of whitened ones."""
        values, vectors = self._eigen
        return self.shifts + ((white @ vectors) * np.sqrt(values)) @ vectors.T

    def whitened_with_noise(self, changes: Float64[np.ndarray, "K N"]) -> Float64[np.ndarray, "K N"]:
        """(R + I)^(-1/2) times changes of the sides, up to a rotation that all changes share."""
        values, vectors = self._eigen
        return (changes @ vectors) / np.sqrt(values + 1)

    def log_likelihood(
        self, latents: Int8[np.ndarray, "K N"], mean: Float64[np.ndarray, "N"] | None = None
    ) -> Float64[np.ndarray, "K"]:
        """Log likelihood of latents, up to a constant, under a Gaussian with the bits' mean and covariance.

        ``mean`` replaces the bits' mean if given.
        """
        off = latents - (self.mean if mean is None else mean)
        precision, log_determinant = self._inverse
        return -0.5 * ((off @ precision) * off).sum(axis=1) - 0.5 * log_determinant

    def sides(self, latents: Int8[np.ndarray, "K N"]) -> Float64[np.ndarray, "K N"]:
        """Approximate E[x | b]; every side has the sign of its bit.

        By vector approximate message passing (Rangan, Schniter and Fletcher 2019). Each pass predicts the
        sides from their correlations, and then cuts them off at 0 by their bits. Each of the two steps takes
        out of what it gets the part that it had sent to the other.
        """
        values, vectors = self._eigen
        centre, precision = np.broadcast_to(self.shifts, latents.shape), np.ones((len(latents), 1))
        for number in range(_PASSES + 1):
            found, variance = _truncated(latents, centre, precision)
            if number == _PASSES:
                break
            told = np.maximum(1 / variance - precision, _LEAST)
            heard = (found / variance - precision * centre) / told
            shrunk = values * told + 1
            moved = ((heard - self.shifts) @ vectors * (values * told / shrunk)) @ vectors.T
            spread = (values / shrunk).mean(axis=1, keepdims=True)
            precision = 1 / spread - told
            centre = ((self.shifts + moved) / spread - told * heard) / precision
        return found

    @cached_property
    def _inverse(self) -> tuple[Float64[np.ndarray, "N N"], float]:
        """The bits' precision matrix, and the log determinant of their covariance."""
        covariance = self.covariance
        return linalg.inv(covariance, check_finite=False), float(np.linalg.slogdet(covariance)[1])

    @cached_property
    def _eigen(self) -> tuple[Float64[np.ndarray, "N"], Float64[np.ndarray, "N N"]]:
        """Eigenvalues and eigenvectors of the correlation matrix."""
        values, vectors = linalg.eigh(self.correlation, check_finite=False)
        return values, vectors


def _truncated(
    latents: Int8[np.ndarray, "K N"],
    centre: Float64[np.ndarray, "K N"],
    precision: Float64[np.ndarray, "K 1"],
) -> tuple[Float64[np.ndarray, "K N"], Float64[np.ndarray, "K 1"]]:
    """Means of Gaussians truncated at 0 to the sides of the bits, and the mean of their variances."""
    deviation = 1 / np.sqrt(precision)
    inside = latents * centre / deviation
    # In logarithms, which stay accurate far out in the tail.
    ratio = np.exp(_LOG_DENSITY - inside**2 / 2 - special.log_ndtr(inside))
    beyond = np.maximum(inside + ratio, _LEAST)
    shares = np.clip(1 - ratio * (inside + ratio), _LEAST, None)
    return latents * deviation * beyond, deviation**2 * shares.mean(axis=1, keepdims=True)
