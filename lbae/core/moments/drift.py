"""The difference between two moment sums of one model, compared with the difference expected by chance."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from lbae.core.moments.moment_sums import MomentSums


@dataclass(frozen=True, kw_only=True)
class Drift:
    """z-scores of the bits' means; distance of the moment matrices, as found and as expected by chance."""

    z: Float64[np.ndarray, "N"]
    frobenius: float
    expected: float


def moment_drift(a: MomentSums, b: MomentSums) -> Drift:
    """Compare the moments of ``a`` and ``b``.

    z_i = (E_a[y_i] - E_b[y_i]) / sqrt(v_i (1/K_a + 1/K_b)), with v_i the variance over all rows of ``a`` and
    ``b``; 0 for a bit that never varies. The expected squared Frobenius distance is the sum of
    v_ij (1/K_a + 1/K_b) over the entries of M, where v_ij = 1 - M_ij**2 because every product is +1 or -1.
    """
    both = a + b
    noise = 1 / a.count + 1 / b.count
    difference = a.mean - b.mean
    deviation = np.sqrt((1 - both.mean**2) * noise)
    return Drift(
        z=np.divide(difference, deviation, out=np.zeros_like(difference), where=difference != 0),
        frobenius=float(np.linalg.norm(a.moment_matrix - b.moment_matrix)),
        expected=float(np.sqrt((1 - both.moment_matrix**2).sum() * noise)),
    )
