"""Factors of the samplers that the product is compared with; same shape and use as the others' (:mod:`lbae.core.prior`)."""

import numpy as np
from jaxtyping import Float64
from scipy import linalg

from lbae.core.gaussian import gaussian_thresholds, with_thresholds
from lbae.core.hyperplane import gram_matrix

Mean = Float64[np.ndarray, "N"]
Second = Float64[np.ndarray, "N N"]
Matrix = Float64[np.ndarray, "M M"]


def paper_factor(moment_matrix: Matrix) -> Matrix:
    """The hyperplane sampler with the repair of the paper's code (``nearestPD``): the nearest PSD matrix (Higham 1988).

    Unlike the nearest correlation matrix it lets the diagonal grow, which weakens every correlation; then the diagonal is
    raised until a Cholesky factorisation succeeds.
    """
    gram = gram_matrix(moment_matrix)
    values, vectors = linalg.eigh(gram)
    psd = (vectors * np.maximum(values, 0)) @ vectors.T if values[0] <= 0 else gram
    spacing = np.spacing(linalg.norm(gram))
    attempt = 0
    while True:
        try:
            factor: Matrix = linalg.cholesky(psd, lower=True)
            return factor
        except linalg.LinAlgError:
            attempt += 1
            lowest = linalg.eigvalsh(psd, subset_by_index=[0, 0])[0]
            psd[np.diag_indices(len(psd))] += spacing - lowest * attempt**2


def direct_factor(mean: Mean, second: Second) -> Matrix:
    """b = sign(L z + E[y]) with L LT the covariance (slide 16)."""
    values, vectors = linalg.eigh(second - np.outer(mean, mean))
    root = vectors * np.sqrt(np.maximum(values, 0))
    return with_thresholds(mean, linalg.qr(root.T, mode="r")[0].T)


def independent_factor(mean: Mean, rows: int) -> Matrix:
    """Every bit on its own, as often +1 as in ``rows`` rows, but at least half a row's share."""
    return with_thresholds(gaussian_thresholds(mean, rows), np.eye(len(mean)))
