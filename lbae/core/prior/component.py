"""Fit one component of a mixture: from the moment sums of its rows to its factor, with facts about it."""

from typing import Any

import numpy as np
from jaxtyping import Float32, Float64
from scipy import linalg

from lbae.core.moments.attribute_statistics import joint_moments
from lbae.core.moments.moment_sums import MomentSums
from lbae.core.prior.fidelity import factor_moments, moment_errors
from lbae.core.prior.mixture import shrink
from lbae.core.prior.prior import Sampler
from lbae.core.prior.samplers import repaired_factor, wanted_correlation

# Components are shrunk if they have fewer rows than a quarter of the bits. With more rows, shrinking makes
# images worse (docs/measurements.md).
_FEW = 4


def fit_component(
    sums: MomentSums,
    sampler: Sampler,
    within: Float64[np.ndarray, "N N"],
    shrinkage: float,
    attribute_means: Float64[np.ndarray, "A"],
) -> tuple[dict[str, Any], Float32[np.ndarray, "M M"], Float64[np.ndarray, "P N"]]:
    """Return facts about a component, its factor, and [E[y]; E[y yT]] of the factor's draws (P = 1 + N).

    The sums must be of at least one row. A component with fewer rows than N / 4 is shrunk toward ``within``
    (:func:`lbae.core.prior.mixture.shrink`). A component without labels for an attribute uses the attribute's
    overall mean in ``attribute_means``.
    """
    mean, second = joint_moments(sums, attribute_means)
    bits = slice(len(sums.attributes), None)
    if _FEW * sums.count < sums.latent_dim:
        second[bits, bits] = shrink(sums.mean, sums.second, within, shrinkage)
    wanted = wanted_correlation(sampler, mean, second, sums.count)
    eigenvalues = linalg.eigvalsh(wanted)
    factor = repaired_factor(sampler, wanted, mean, sums.count)
    drawn_mean, drawn_second = factor_moments(sampler, factor)
    drawn = drawn_mean[bits], drawn_second[bits, bits]
    facts = {
        "rows": sums.count,
        "negative_eigenvalues": int((eigenvalues < 0).sum()),
        "lowest_eigenvalue": round(float(eigenvalues[0]), 5),
        "constant_bits": int((np.abs(sums.mean) == 1).sum()),
        **moment_errors(*drawn, sums.mean, second[bits, bits]),
    }
    return facts, factor.astype(np.float32), np.vstack(drawn)
