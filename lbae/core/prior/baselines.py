"""Baselines: factors of other samplers, and the interpolation and attribute edit of the paper's code.

The factors have the shape and use of those in :mod:`lbae.core.prior.prior`.
"""

import numpy as np
from jaxtyping import Float64, Int8
from scipy import linalg

from lbae.core.prior.gaussian import negative_thresholds, with_thresholds
from lbae.core.prior.hyperplane import gram_matrix

Mean = Float64[np.ndarray, "N"]
Second = Float64[np.ndarray, "N N"]
Matrix = Float64[np.ndarray, "M M"]


def paper_factor(moment_matrix: Matrix) -> Matrix:
    """Hyperplane factor with the repair of the paper's code, the nearest PSD matrix (Higham 1988).

    Unlike the nearest correlation matrix, it lets the diagonal grow, which weakens every correlation. The
    diagonal is then raised further until a Cholesky factorisation succeeds.
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
    """Factor of b = sign(L z + E[y]), with L LT the covariance (slide 16)."""
    values, vectors = linalg.eigh(second - np.outer(mean, mean))
    root = vectors * np.sqrt(np.maximum(values, 0))
    return with_thresholds(mean, linalg.qr(root.T, mode="r")[0].T)


def independent_factor(mean: Mean, rows: int) -> Matrix:
    """Factor of independent bits with these means.

    A bit that is constant over ``rows`` rows counts as if it had the other value in half a row.
    """
    return with_thresholds(negative_thresholds(mean, rows), np.eye(len(mean)))


_PAPER_THRESHOLD, _ROUNDS = 0.12, 10


def paper_edit(mean_if_set: Mean, latents: Int8[np.ndarray, "K N"]) -> Int8[np.ndarray, "K N"]:
    """Latents with an attribute set as in the paper's code.

    A bit takes the sign of its mean among latents with the attribute, if that mean is beyond +-0.12. This
    edit cannot unset an attribute and has no strength.
    """
    return np.where(np.abs(mean_if_set) > _PAPER_THRESHOLD, np.sign(mean_if_set).astype(np.int8), latents)


def paper_path(
    vectors: Float64[np.ndarray, "N M"], ends: Int8[np.ndarray, "2 N"], steps: int
) -> Int8[np.ndarray, "{steps} N"]:
    """Interpolation as in the paper's code: slerp between two normals guessed from the bits' unit vectors.

    The first and last latent are only near the ends. The paper's code shows the ends before and after them.
    """
    low, high = (_guessed_normal(vectors, latent) for latent in ends)
    angle = np.arccos(np.clip(low @ high, -1, 1))
    shares = np.linspace(0, 1, steps)[:, None]
    normals = (
        (np.sin((1 - shares) * angle) * low + np.sin(shares * angle) * high)
        if angle
        else np.repeat(low[None], steps, 0)
    )
    return np.where(normals @ vectors.T >= 0, np.int8(1), np.int8(-1))


def _guessed_normal(
    vectors: Float64[np.ndarray, "N M"], latent: Int8[np.ndarray, "N"]
) -> Float64[np.ndarray, "M"]:
    normal = _centre(vectors[latent == 1], ties=False) - _centre(vectors[latent == -1], ties=True)
    unit: np.ndarray = normal / np.linalg.norm(normal)
    return unit


def _centre(vectors: Float64[np.ndarray, "K M"], ties: bool) -> Float64[np.ndarray, "M"]:
    """The direction of the vectors' mean. Vectors on its negative side are added again while they get fewer.

    With ``ties`` they are also added while their number stays the same, for at most ten rounds. The paper's
    code does so for bits of -1, not for bits of +1.
    """
    best, most = np.zeros(vectors.shape[1]), len(vectors)
    for _ in range(_ROUNDS if ties and most else most):
        centre = vectors.mean(axis=0)
        centre /= np.linalg.norm(centre)
        wrong = vectors @ centre < 0
        if wrong.sum() > most:
            break
        best, most = centre, int(wrong.sum()) - (not ties)
        if not wrong.any():
            break
        vectors = np.concatenate([vectors, vectors[wrong]])
    return best
