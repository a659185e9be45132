"""A dichotomised Gaussian (Macke et al. 2009) as a model of latents: bits are the signs of Gaussian sides.

The sides x ~ N(c, R) have unit variances; bit i is +1 where x_i > 0. Bits have the means m = 2 Phi(c) - 1 and
covariances 4 (P(x_i > 0, x_j > 0) - P(x_i > 0) P(x_j > 0)).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int8
from scipy import linalg, special

from lbae.core.prior.gaussian import upper_quadrant

_LEAST_VARIANCE = 1e-3  # of a side given the other bits
_LOG_DENSITY = -0.5 * np.log(2 * np.pi)
_CACHE_BYTES = 2**29
_MATRICES = 4  # float64 matrices that a model in use holds


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
        return 2 * special.ndtr(self.shifts) - 1

    @property
    def covariance(self) -> Float64[np.ndarray, "N N"]:
        """Covariance of the bits."""
        share, found = (self.mean + 1) / 2, np.diag(1 - self.mean**2)
        i, j = np.triu_indices(len(share), 1)
        both = upper_quadrant(-self.shifts[i], -self.shifts[j], self.correlation[i, j])
        found[i, j] = found[j, i] = 4 * (both - share[i] * share[j])
        return found

    @cached_property
    def roots(self) -> tuple[Float64[np.ndarray, "N N"], Float64[np.ndarray, "N N"]]:
        """The symmetric R^(1/2) and R^(-1/2)."""
        values, vectors = linalg.eigh(self.correlation, check_finite=False)
        scale = np.sqrt(values)
        return (vectors * scale) @ vectors.T, (vectors / scale) @ vectors.T

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

        A side is predicted linearly from all other bits, as a Gaussian that its own bit then truncates at 0.
        """
        gain, gain_of_own, deviation = self._prediction
        surprise = (latents - self.mean) @ self._inverse[0]
        others = self.shifts + (surprise * gain) @ self.correlation - surprise * gain_of_own
        centre = latents * others / deviation
        # The mean of a truncated Gaussian, in logarithms, which stay accurate far out in the tail.
        ratio = np.exp(_LOG_DENSITY - centre**2 / 2 - special.log_ndtr(centre))
        beyond: Float64[np.ndarray, "K N"] = latents * deviation * np.maximum(centre + ratio, _LEAST_VARIANCE)
        return beyond

    @cached_property
    def _inverse(self) -> tuple[Float64[np.ndarray, "N N"], float]:
        """The bits' precision matrix, and the log determinant of their covariance."""
        covariance = self.covariance
        return linalg.inv(covariance, check_finite=False), float(np.linalg.slogdet(covariance)[1])

    @cached_property
    def _prediction(self) -> tuple[Float64[np.ndarray, "N"], ...]:
        """2 phi(c_i), (R D P)_ii / P_ii, and the deviation of side i given the other bits, for all i.

        With Cov(x, b) = R D, D = diag(2 phi(c)), and P the bits' precision, all bits predict x - c by
        R D P (b - m). Without bit i, the prediction of side i is less by (R D P)_ii (P (b - m))_i / P_ii, and
        the remaining variance is greater by (R D P)_ii^2 / P_ii.
        """
        density = 2 * np.exp(_LOG_DENSITY - self.shifts**2 / 2)
        with_bits, precision = self.correlation * density, self._inverse[0]
        all_bits = with_bits @ precision
        own, certainty = np.diag(all_bits), np.diag(precision)
        variance = 1 - (all_bits * with_bits).sum(axis=1) + own**2 / certainty
        return density, own / certainty, np.sqrt(np.clip(variance, _LEAST_VARIANCE, 1))
