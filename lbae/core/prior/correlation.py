"""Nearest correlation matrix (Higham 2002) by the semismooth Newton method of Qi and Sun (2006).

The problem: the symmetric X nearest to G in the Frobenius norm with unit diagonal and eigenvalues >= floor.
Its dual is an unconstrained, once differentiable, convex problem in the multipliers of the diagonal. Newton's
method on the dual converges quadratically, with one eigendecomposition per step.

Fixing the boundary's row as well would make the means exact and the pairwise moments worse
(docs/measurements.md). The dichotomised Gaussian has exact means and better pairwise moments.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64
from scipy import linalg
from scipy.sparse.linalg import LinearOperator, cg

Matrix = Float64[np.ndarray, "M M"]
Vector = Float64[np.ndarray, "M"]

_MAX_STEPS = 60
_MAX_HALVINGS = 20
# Lets conjugate gradients converge where the Hessian is singular.
_REGULARISER = 1e-10
# Newton's method stops when the norm of the diagonal's error is this share of the distance to the nearest PSD
# matrix; a final rescaling makes the diagonal exact. The error of the distance found is proportional to the
# square of the diagonal's error. The smallest eigenvalue is below the floor by at most its relative error.
_TOLERANCE = 1e-5
# A generous rounding error per diagonal entry, below which no gradient can be required to fall.
_ROUNDING = 1e-12


def _hessian(values: Vector, vectors: Matrix) -> tuple[LinearOperator, LinearOperator]:
    """A generalised Hessian of the dual, h -> diag(P (W o (PT Diag(h) P)) PT), and a preconditioner.

    See Qi and Sun, section 3.

    W is 1 on pairs of positive eigenvalues, 0 on pairs of others and ``ratio`` on mixed pairs. With U the
    eigenvectors of positive eigenvalues, the first part is ((U UT) o (U UT)) h. It costs one matrix product
    per Newton step, and one matrix-vector product per iteration of conjugate gradients. The preconditioner is
    the Hessian's diagonal (Borsdorf and Higham 2010). float32 suffices, because steps are solved inexactly.
    """
    positive = values > 0
    values, vectors = values.astype(np.float32), vectors.astype(np.float32)
    p, q = vectors[:, positive], vectors[:, ~positive]
    ratio = values[positive][:, None] / (values[positive][:, None] - values[~positive][None, :])
    both = p @ p.T
    both *= both
    diagonal = np.diag(both) + 2.0 * np.einsum("ij,ij->i", p**2 @ ratio, q**2) + _REGULARISER

    def apply(h: Vector) -> Vector:
        h = h.ravel().astype(np.float32)
        mixed = ratio * ((p * h[:, None]).T @ q)
        along = both @ h + 2.0 * np.einsum("ij,ij->i", p @ mixed, q) + _REGULARISER * h
        return along.astype(np.float64)

    def precondition(h: Vector) -> Vector:
        return h.ravel() / diagonal

    shape = len(values), len(values)
    return LinearOperator(shape, apply, dtype=np.float64), LinearOperator(
        shape, precondition, dtype=np.float64
    )


def _is_positive_definite(matrix: Matrix) -> bool:
    try:
        linalg.cholesky(matrix, lower=True, check_finite=False)
    except linalg.LinAlgError:
        return False
    return True


@dataclass(frozen=True)
class _Point:
    """The dual at given multipliers, from an eigendecomposition of the matrix plus Diag(multipliers)."""

    multipliers: Vector
    values: Vector
    vectors: Matrix
    target: float

    @classmethod
    def at(cls, matrix: Matrix, multipliers: Vector, target: float) -> "_Point":
        values, vectors = np.linalg.eigh(matrix + np.diag(multipliers))
        return cls(multipliers, values, vectors, target)

    @cached_property
    def root(self) -> Float64[np.ndarray, "M P"]:
        """R with R RT the PSD part."""
        positive = self.values > 0
        return self.vectors[:, positive] * np.sqrt(self.values[positive])

    @cached_property
    def gradient(self) -> Vector:
        """The diagonal of the PSD part, minus its target."""
        return np.einsum("ij,ij->i", self.root, self.root) - self.target

    @property
    def dual(self) -> float:
        return float(0.5 * np.sum(np.maximum(self.values, 0) ** 2) - self.target * self.multipliers.sum())


def _newton(matrix: Matrix, target: float) -> Matrix:
    """The PSD matrix nearest to ``matrix`` among those with ``target`` on the diagonal."""
    point = _Point.at(matrix, np.zeros(len(matrix)), target)
    enough = max(_TOLERANCE * float(np.linalg.norm(np.minimum(point.values, 0))), _ROUNDING * len(matrix))
    for _ in range(_MAX_STEPS):
        norm = float(np.linalg.norm(point.gradient))
        if norm <= enough:
            return point.root @ point.root.T
        hessian, preconditioner = _hessian(point.values, point.vectors)
        step, _ = cg(hessian, -point.gradient, rtol=min(0.1, norm), maxiter=200, M=preconditioner)
        start, slope, scale = point, float(point.gradient @ step), 1.0
        for _ in range(_MAX_HALVINGS):
            point = _Point.at(matrix, start.multipliers + scale * step, target)
            # Close to the solution rounding hides the dual's decrease, so a halved gradient is accepted too.
            if point.dual <= start.dual + 1e-4 * scale * slope or np.linalg.norm(point.gradient) < 0.5 * norm:
                break
            scale /= 2
    raise RuntimeError(f"the nearest correlation matrix did not converge in {_MAX_STEPS} Newton steps")


def nearest_correlation(matrix: Matrix, floor: float = 0.0) -> Matrix:
    """Return the nearest correlation matrix with eigenvalues >= ``floor``.

    The input is made symmetric with unit diagonal first, and returned so if its eigenvalues suffice.

    Raises:
        ValueError: if the input is not finite or the floor is outside [0, 1).
        RuntimeError: if Newton's method does not converge.
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
    result = _newton(symmetric - shift, 1.0 - floor) + shift
    scale = 1.0 / np.sqrt(np.diag(result))
    result *= scale[:, None] * scale[None, :]
    np.fill_diagonal(result, 1.0)
    return result


def correlation_factor(matrix: Matrix, floor: float) -> Matrix:
    """Lower-triangular V with unit rows; V VT is the nearest correlation matrix with this floor (slide 13).

    The floor must be above rounding (say 1e-9), otherwise the Cholesky factorisation may raise LinAlgError.
    """
    nearest = nearest_correlation(matrix, floor)
    factor: Matrix = linalg.cholesky(nearest, lower=True, check_finite=False)
    return factor / np.linalg.norm(factor, axis=1, keepdims=True)
