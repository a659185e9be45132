"""Nearest correlation matrix (Higham 2002) by the semismooth Newton method of Qi and Sun (2006).

The problem: the symmetric X nearest to G in the Frobenius norm with unit diagonal and eigenvalues >= floor. Its dual is an
unconstrained, once differentiable, concave problem in the N multipliers of the diagonal; Newton's method on it converges
quadratically, one eigendecomposition a step.
"""

import numpy as np
from jaxtyping import Float64
from scipy import linalg
from scipy.sparse.linalg import LinearOperator, cg

Matrix = Float64[np.ndarray, "M M"]

_MAX_STEPS = 60
_MAX_HALVINGS = 20


def _project(matrix: Matrix) -> tuple[Matrix, Float64[np.ndarray, "M"], Matrix]:
    """The PSD part of a symmetric matrix, its eigenvalues and its eigenvectors."""
    values, vectors = linalg.eigh(matrix, driver="evd", check_finite=False)
    positive = values > 0
    half = vectors[:, positive] * np.sqrt(values[positive])
    return half @ half.T, values, vectors


def _hessian(values: Float64[np.ndarray, "M"], vectors: Matrix) -> LinearOperator:
    """h -> diag(P (W o (PT Diag(h) P)) PT), a generalised Hessian of the dual (Qi and Sun, section 3).

    W is 1 on pairs of positive eigenvalues, 0 on pairs of others: only the rows of positive eigenvalues enter the products.
    """
    positive = values > 0
    p, q = vectors[:, positive], vectors[:, ~positive]
    ratio = values[positive][:, None] / (values[positive][:, None] - values[~positive][None, :])

    def apply(h: Float64[np.ndarray, "M"]) -> Float64[np.ndarray, "M"]:
        h = h.ravel()
        scaled = p * h[:, None]
        both = np.einsum("ij,ij->i", p @ (p.T @ scaled), p)
        mixed = ratio * (scaled.T @ q)
        return both + 2.0 * np.einsum("ij,ij->i", p @ mixed, q) + 1e-10 * h

    return LinearOperator((len(values), len(values)), matvec=apply, dtype=np.float64)


def _is_positive_definite(matrix: Matrix) -> bool:
    try:
        linalg.cholesky(matrix, lower=True, check_finite=False)
    except linalg.LinAlgError:
        return False
    return True


def _newton(matrix: Matrix, target: float, tolerance: float) -> Matrix:
    """The PSD matrix nearest to ``matrix`` among those with ``target`` on the diagonal."""

    def dual(values: Float64[np.ndarray, "M"], multipliers: Float64[np.ndarray, "M"]) -> float:
        return float(0.5 * np.sum(np.maximum(values, 0) ** 2) - target * multipliers.sum())

    multipliers = np.zeros(len(matrix))
    psd, values, vectors = _project(matrix)
    gradient = np.diag(psd) - target
    for _ in range(_MAX_STEPS):
        norm = float(np.linalg.norm(gradient))
        if norm <= tolerance:
            return psd
        step, _ = cg(_hessian(values, vectors), -gradient, rtol=min(0.1, norm), maxiter=200)
        current, slope, scale = dual(values, multipliers), float(gradient @ step), 1.0
        for _ in range(_MAX_HALVINGS):
            trial = multipliers + scale * step
            psd, values, vectors = _project(matrix + np.diag(trial))
            gradient = np.diag(psd) - target
            # Close to the solution the dual's decrease drowns in rounding: a smaller gradient counts as well.
            if dual(values, trial) <= current + 1e-4 * scale * slope or np.linalg.norm(gradient) < 0.5 * norm:
                break
            scale /= 2
        multipliers = trial
    raise RuntimeError(f"the nearest correlation matrix did not converge in {_MAX_STEPS} Newton steps")


def nearest_correlation(matrix: Matrix, floor: float = 0.0, tolerance: float = 1e-7) -> Matrix:
    """The nearest matrix with unit diagonal and eigenvalues >= ``floor``; the input itself when it already is one.

    ``tolerance`` bounds the norm of the diagonal's error before the last rescaling to an exact unit diagonal, which can
    take the smallest eigenvalues below the floor by as little. ValueError when the input is not finite or the floor is
    outside [0, 1); RuntimeError when Newton's method does not converge.
    """
    if not np.isfinite(matrix).all():
        raise ValueError("the matrix to repair has values that are not finite")
    if not 0 <= floor < 1:
        raise ValueError(f"the eigenvalue floor is {floor}; allowed: 0 to less than 1")
    symmetric = (matrix + matrix.T) / 2
    np.fill_diagonal(symmetric, 1.0)
    shift = floor * np.eye(len(symmetric))
    if _is_positive_definite(symmetric - shift):
        return symmetric
    result = _newton(symmetric - shift, 1.0 - floor, tolerance) + shift
    scale = 1.0 / np.sqrt(np.diag(result))
    result *= scale[:, None] * scale[None, :]
    np.fill_diagonal(result, 1.0)
    return result


def correlation_factor(matrix: Matrix, floor: float) -> Matrix:
    """Lower-triangular V with unit rows and V VT the nearest correlation matrix with that eigenvalue floor (slide 13).

    The floor must be above rounding (1e-9, say), or the Cholesky factorisation may fail with LinAlgError.
    """
    nearest = nearest_correlation(matrix, floor)
    factor: Matrix = linalg.cholesky(nearest, lower=True, check_finite=False)
    return factor / np.linalg.norm(factor, axis=1, keepdims=True)
