"""Fitting dichotomised Gaussians to the latents of each value of an attribute column."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float16, Float32

from lbae.core.moments.moment_sums import MomentSums
from lbae.core.prior.correlation import nearest_correlation
from lbae.core.prior.gaussian import gaussian_correlation, negative_thresholds

_FLOOR = 1e-2  # of the eigenvalues: the exchange divides by their roots, and they are stored as float16


def fit_values(
    sums: Sequence[MomentSums], own: bool
) -> tuple[Float32[np.ndarray, "C N"], Float16[np.ndarray, "G P"]]:
    """Shifts of the C values whose moment sums are given, and packed correlations of their sides.

    Each value has a correlation of its own (G = C), or all share the mean of all rows (G = 1). The fewer rows
    a value of N bits has, the nearer its own lies to that mean: r rows count for r / (r + N).
    """
    rows, bits = np.array([s.count for s in sums]), sums[0].latent_dim
    found = [gaussian_correlation(s.mean, s.second, s.count) for s in sums]
    mean = np.average(found, axis=0, weights=rows)
    trust = rows / (rows + bits)
    wanted = [t * one + (1 - t) * mean for t, one in zip(trust, found, strict=True)] if own else [mean]
    above = np.triu_indices(bits, 1)
    packed = [nearest_correlation(one, _FLOOR)[above].astype(np.float16) for one in wanted]
    shifts = [negative_thresholds(s.mean, s.count) for s in sums]
    return np.array(shifts, dtype=np.float32), np.array(packed)
