"""The samplers by name: from moments to the factor that :class:`lbae.core.prior.Prior` draws with.

``hyperplane`` and ``gaussian`` are the product's, the others baselines to show (:mod:`lbae.core.baselines`).
"""

import numpy as np
from jaxtyping import Float64

from lbae.core.attributes import joint_moments
from lbae.core.baselines import direct_factor, independent_factor, paper_factor
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
    elif sampler == "paper":
        factor = paper_factor(moment_matrix(mean, second))
    elif sampler == "direct":
        factor = direct_factor(mean, second)
    else:
        factor = independent_factor(mean, rows)
    constant = np.flatnonzero(np.abs(mean) == 1) + 1
    factor[constant] = 0.0
    factor[constant, 0] = mean[constant - 1]
    return factor


def fit(sampler: Sampler, moments: MomentSums) -> Prior:
    """A prior of one component with these moments; ValueError for fewer than 2 rows."""
    if moments.count < 2:
        raise ValueError(f"moments of {moments.count} rows; a prior needs at least 2")
    factor = sampling_factor(sampler, *joint_moments(moments), moments.count)
    return Prior(sampler=sampler, weights=np.ones(1), factors=factor[None].astype(np.float32), attributes=moments.attributes)
