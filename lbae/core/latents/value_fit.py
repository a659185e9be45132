"""Fit dichotomised Gaussians to the latents of each value of an attribute column, and their temperature."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float16, Float32, Float64, Int64
from scipy import optimize, special

from lbae.core.moments.moment_sums import MomentSums
from lbae.core.prior.correlation import nearest_correlation
from lbae.core.prior.gaussian import gaussian_correlation, negative_thresholds

_FLOOR = 1e-2  # of the eigenvalues: the exchange divides by their roots, and float16 perturbs them
_COLDEST, _HOTTEST = 0.1, 100.0
_ROWS_PER_BIT = 0.4  # with which own and shared correlation weigh the same (docs/measurements.md)


def fit_values(
    sums: Sequence[MomentSums], own: bool
) -> tuple[Float32[np.ndarray, "C N"], Float16[np.ndarray, "G P"]]:
    """Shifts of C values with the given moment sums, and correlation matrices of their sides.

    With ``own``, values have correlation matrices of their own (G = C), else they share the mean weighted by
    rows (G = 1). An own matrix is shrunk toward that mean: with r rows of N bits its weight is
    1 / (1 + (0.4 N / r)^2). Of each matrix, the P = N (N - 1) / 2 entries above the diagonal are returned,
    row by row.
    """
    rows, bits = np.array([s.count for s in sums]), sums[0].latent_dim
    found = [gaussian_correlation(s.mean, s.second, s.count) for s in sums]
    mean = np.average(found, axis=0, weights=rows)
    trust = 1 / (1 + (_ROWS_PER_BIT * bits / rows) ** 2)
    wanted = [t * one + (1 - t) * mean for t, one in zip(trust, found, strict=True)] if own else [mean]
    above = np.triu_indices(bits, 1)
    packed = [nearest_correlation(one, _FLOOR)[above].astype(np.float16) for one in wanted]
    shifts = [negative_thresholds(s.mean, s.count) for s in sums]
    return np.array(shifts, dtype=np.float32), np.array(packed)


def fit_temperature(likely: Float64[np.ndarray, "C K"], value: Int64[np.ndarray, "K"]) -> tuple[float, float]:
    """The T at which softmax(log likelihood / T) best predicts ``value``, of K latents (Guo et al. 2017).

    Also the surprise that is left, in nats. Every value weighs the same, however many latents have it.
    """
    weights = 1 / np.bincount(value, minlength=len(likely))[value]

    def surprise(log_temperature: float) -> float:
        predicted = special.log_softmax(likely / np.exp(log_temperature), axis=0)
        return -float(np.average(predicted[value, np.arange(len(value))], weights=weights))

    found = optimize.minimize_scalar(surprise, bounds=(np.log(_COLDEST), np.log(_HOTTEST)), method="bounded")
    return float(np.exp(found.x)), float(found.fun)
