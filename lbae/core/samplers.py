"""The samplers by name: from moments to the factor that :class:`lbae.core.prior.Prior` draws with.

``hyperplane`` and ``gaussian`` are the product's; ``direct`` (slide 16) and ``independent`` are baselines to show.
"""

import numpy as np
from jaxtyping import Float64
from scipy import linalg, special

from lbae.core.attributes import joint_moments
from lbae.core.gaussian import gaussian_factor
from lbae.core.hyperplane import hyperplane_factor
from lbae.core.moments import MomentSums, moment_matrix
from lbae.core.prior import Prior, Sampler

# Tiny: at 1e-2 a nearly constant bit flips several times too often.
SAMPLING_FLOOR = 1e-6

Mean = Float64[np.ndarray, "N"]
Second = Float64[np.ndarray, "N N"]
Factor = Float64[np.ndarray, "M M"]


def sampling_factor(sampler: Sampler, mean: Mean, second: Second, rows: int) -> Factor:
    """The factor of a sampler for E[x] and E[x xT] over ``rows`` rows. What never varies there stays as it is."""
    if sampler == "hyperplane":
        factor = hyperplane_factor(moment_matrix(mean, second), SAMPLING_FLOOR)
    elif sampler == "gaussian":
        factor = gaussian_factor(mean, second, rows, SAMPLING_FLOOR)
    elif sampler == "direct":
        factor = _direct_factor(mean, second)
    else:
        factor = _independent_factor(mean, rows)
    constant = np.flatnonzero(np.abs(mean) == 1) + 1
    factor[constant] = 0.0
    factor[constant, 0] = mean[constant - 1]
    return factor


def _direct_factor(mean: Mean, second: Second) -> Factor:
    """b = sign(L z + E[y]) with L LT the covariance (slide 16)."""
    values, vectors = linalg.eigh(second - np.outer(mean, mean))
    root = vectors * np.sqrt(np.maximum(values, 0))
    return _with_boundary(mean, linalg.qr(root.T, mode="r")[0].T)


def _independent_factor(mean: Mean, rows: int) -> Factor:
    half = 0.5 / rows
    return _with_boundary(special.ndtri(np.clip((mean + 1) / 2, half, 1 - half)), np.eye(len(mean)))


def _with_boundary(column: Mean, lower: Second) -> Factor:
    factor = np.zeros((len(column) + 1, len(column) + 1))
    factor[0, 0] = 1.0
    factor[1:, 0], factor[1:, 1:] = column, lower
    return factor


def fit(sampler: Sampler, moments: MomentSums) -> Prior:
    """A prior of one component with these moments; ValueError for fewer than 2 rows."""
    if moments.count < 2:
        raise ValueError(f"moments of {moments.count} rows; a prior needs at least 2")
    factor = sampling_factor(sampler, *joint_moments(moments), moments.count)
    return Prior(sampler=sampler, weights=np.ones(1), factors=factor[None].astype(np.float32), attributes=moments.attributes)
