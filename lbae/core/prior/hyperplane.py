"""The hyperplane sampler (slides 12-15): a random hyperplane splits unit vectors into +1 and -1.

M = [[1, E[y]T], [E[y], E[y yT]]]      moment matrix; row 0 is the boundary
H = cos(pi/2 (1 - M)) = sin(pi/2 M)    Gram matrix wanted, because E[b_i b_j] = 2/pi asin<V_i, V_j>
                                       (Goemans and Williamson 1995)
V VT = nearest correlation to H        V is lower triangular with unit rows, so V_0 = e_0
b_i = +1 if sign<V_i, r> == sign<V_0, r>, else -1, with r ~ N(0, I) and sign(0) = +1
"""

import numpy as np
from jaxtyping import Float64

from lbae.core.prior.correlation import correlation_factor


def gram_matrix(moment_matrix: Float64[np.ndarray, "M M"]) -> Float64[np.ndarray, "M M"]:
    """Gram matrix for a moment matrix M, by the inverse arcsine law: sin(pi/2 M), entrywise (slide 13)."""
    return np.sin(np.pi / 2 * moment_matrix)


def hyperplane_factor(moment_matrix: Float64[np.ndarray, "M M"], floor: float) -> Float64[np.ndarray, "M M"]:
    """V for a moment matrix, boundary first: lower triangular with unit rows."""
    return correlation_factor(gram_matrix(moment_matrix), floor)
