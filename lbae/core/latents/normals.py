"""Typical normals r ~ N(0, I) of hyperplanes that split the unit vectors into given latents (slides 5, 17).

The sides x = V r of a random normal r ~ N(0, I) are N(0, V VT); a latent says which sign each side has. No
eigenvalue of V VT is below f, so x = u + e with u ~ N(0, V VT - f I) and e ~ N(0, f I), and two draws repeat
as a Gibbs sampler:

    x given u      independent Gaussians N(u_i, f), each cut off at 0 on the latent's side
    u given x      N(S x, f S), S = I - f (V VT)^-1 = L LT, which is L (LT x + sqrt(f) n) with n ~ N(0, I)

A sweep costs two triangular products. The first starts from random sides x' = V n, moved by the best linear
prediction of sides from the signs b of boundary and bits: x' + K (b - sign(x')) with K = E[x sign(x)T]
E[sign(x) sign(x)T]^-1. That sets the directions of large eigenvalues, in which the sampler is slow. The
normal is the solution of V r = x, so it gives the latent back exactly. No sign depends on the norm of r, so
that is still a Gaussian vector's norm, and is drawn last.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int8
from scipy import linalg, special
from scipy.linalg import blas

from lbae.core.moments.moment_sums import MomentSums
from lbae.core.prior.hyperplane import hyperplane_factor

# f. Solves with the factor need it, or the norm of r explodes.
NORMALS_FLOOR = 1e-2
# A little less than f, so that L exists whatever rounding did to the smallest eigenvalue.
_NOISE = 0.99 * NORMALS_FLOOR
# Far above the rounding error of the solve and of the product that recovers the latent (about 1e-12).
_MIN_MARGIN = 1e-3
# The start is near the target in all directions but the fast ones.
_SWEEPS = 5

Normal = Float64[np.ndarray, "M"]


def pooled_factor(moments: MomentSums) -> Float64[np.ndarray, "M M"]:
    """Return V over [boundary; bits], M = 1 + N: lower triangular with unit rows.

    No eigenvalue of V VT is below the floor.
    """
    return hyperplane_factor(moments.moment_matrix, NORMALS_FLOOR)


@dataclass(frozen=True, kw_only=True)
class Normals:
    """Normals of latents of N bits under one factor V of :func:`pooled_factor`.

    The factors of older bundles have rows of attributes after the bits; their sides are free.
    """

    factor: Float64[np.ndarray, "M M"]
    latent_dim: int

    def prepare(self) -> None:
        """Compute what all draws need, for processes that share these normals to share it too.

        LinAlgError where V is no such factor.
        """
        _ = self._smoother, self._predictor

    def typical(self, latent: Int8[np.ndarray, "N"], rng: np.random.Generator) -> Normal:
        """A draw from N(0, I) given the latent: among the normals that give it back, one like any other."""
        draw = next(itertools.islice(self._draws(self._wanted(latent), rng), _SWEEPS - 1, None))
        normal = self._solve(draw)
        return normal * np.sqrt(rng.chisquare(len(normal))) / np.linalg.norm(normal)

    def sides(self, normal: Normal) -> Float64[np.ndarray, "{self.latent_dim}"]:
        """<V_i, r> of every bit."""
        return self.factor[1 : 1 + self.latent_dim] @ normal

    def latents(self, normals: Float64[np.ndarray, "K M"]) -> Int8[np.ndarray, "K N"]:
        """Return the latents whose bits are the sides of these normals, with sign(0) = +1.

        The boundary is on the positive side.
        """
        return np.where(normals @ self.factor[1 : 1 + self.latent_dim].T >= 0, np.int8(1), np.int8(-1))

    @cached_property
    def _smoother(self) -> Float64[np.ndarray, "M M"]:
        """L, in Fortran's order for BLAS."""
        shrunk = linalg.cho_solve((self.factor, True), -_NOISE * np.eye(len(self.factor)), check_finite=False)
        shrunk[np.diag_indices_from(shrunk)] += 1
        return np.asfortranarray(linalg.cholesky(shrunk, lower=True, check_finite=False))

    @cached_property
    def _predictor(self) -> Float64[np.ndarray, "M S"]:
        """K, by E[x sign(x)T] = sqrt(2/pi) V VT and E[sign(x) sign(x)T] = 2/pi asin(V VT)."""
        gram = self.factor[: 1 + self.latent_dim] @ self.factor.T
        signs = 2 / np.pi * np.arcsin(np.clip(gram[:, : len(gram)], -1, 1))
        return np.sqrt(2 / np.pi) * linalg.solve(signs, gram, assume_a="pos", check_finite=False).T

    def _wanted(self, latent: Int8[np.ndarray, "N"]) -> Normal:
        wanted = np.zeros(len(self.factor))
        wanted[0], wanted[1 : 1 + len(latent)] = 1, latent
        return wanted

    def _draws(self, wanted: Normal, rng: np.random.Generator) -> Iterator[Normal]:
        """Sides x of the Gibbs sampler, with the signs that are wanted."""
        size, deviation, smoother = len(wanted), np.sqrt(_NOISE), self._smoother
        start = self.factor @ rng.standard_normal(size)
        known = slice(1 + self.latent_dim)
        sides = start + self._predictor @ (wanted - np.sign(start))[known]
        while True:
            inner = blas.dtrmv(smoother, sides, lower=1, trans=1) + deviation * rng.standard_normal(size)
            smooth = blas.dtrmv(smoother, inner, lower=1) / deviation
            # A Gaussian cut off at 0 by its inverse distribution function, in logarithms, which hold however
            # far off 0 lies.
            centre = wanted * smooth
            cut = centre - special.ndtri_exp(special.log_ndtr(centre) - rng.standard_exponential(size))
            bounded = wanted * np.maximum(deviation * cut, _MIN_MARGIN)
            sides = np.where(wanted == 0, deviation * (smooth + rng.standard_normal(size)), bounded)
            yield sides

    def _solve(self, sides: Normal) -> Normal:
        normal: Normal = linalg.solve_triangular(self.factor, sides, lower=True, check_finite=False)
        return normal
