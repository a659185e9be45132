"""Typical normals r ~ N(0, I) of hyperplanes that split the unit vectors into given latents (slides 5, 17).

The sides x = V r of a random normal r ~ N(0, I) are N(0, V VT). A latent fixes their signs, which leaves a
truncated Gaussian, drawn from by Gibbs sampling. No eigenvalue of V VT is below f, so x = u + e with
u ~ N(0, V VT - f I) and e ~ N(0, f I). A sweep of the sampler draws both:

    x given u      independent Gaussians N(u_i, f), each truncated at 0 to the latent's sign
    u given x      N(S x, f S), S = I - f (V VT)^-1 = L LT, which is L (LT x + sqrt(f) n) with n ~ N(0, I)

A sweep costs two triangular products. The sampler mixes slowly in the directions of large eigenvalues, so the
start sets those: random sides x' = V n, corrected by the best linear prediction of sides from the signs b of
boundary and bits, are x' + K (b - sign(x')) with K = E[x sign(x)T] E[sign(x) sign(x)T]^-1.

The normal is the solution of V r = x, so it gives the latent back exactly. The signs do not depend on the
norm of r. The norm is therefore drawn last, from the distribution of a Gaussian vector's norm.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int8
from scipy import linalg, special
from scipy.linalg import blas

from lbae.core.moments.moment_sums import MomentSums
from lbae.core.prior.hyperplane import hyperplane_factor

# f. With smaller eigenvalues the norm of r explodes when V r = x is solved.
NORMALS_FLOOR = 1e-2
# A little less than f, so that L exists even if rounding has lowered the smallest eigenvalue.
_NOISE = 0.99 * NORMALS_FLOOR
# Far above the rounding error of the solve and of the product that recovers the latent (about 1e-12).
_MIN_MARGIN = 1e-3
# Few suffice: the start is wrong only in directions in which the sampler mixes fast.
_SWEEPS = 5

Normal = Float64[np.ndarray, "M"]


def pooled_factor(moments: MomentSums) -> Float64[np.ndarray, "M M"]:
    """Return V over [boundary; bits], M = 1 + N: lower triangular with unit rows.

    The eigenvalues of V VT are at least ``NORMALS_FLOOR``.
    """
    return hyperplane_factor(moments.moment_matrix, NORMALS_FLOOR)


@dataclass(frozen=True, kw_only=True)
class Normals:
    """Normals of latents of N bits under one factor V of :func:`pooled_factor`.

    The factors of older bundles also have rows for attributes, after the bits; a latent leaves their sides
    free.
    """

    factor: Float64[np.ndarray, "M M"] = field(repr=False)
    latent_dim: int

    def prepare(self) -> None:
        """Compute now what all draws need, so that processes that share these normals share it too.

        LinAlgError if V VT has an eigenvalue below the floor.
        """
        _ = self._smoother, self._predictor

    def typical(self, latent: Int8[np.ndarray, "N"], rng: np.random.Generator) -> Normal:
        """Draw a normal from N(0, I) given that it yields ``latent``, approximately (a few Gibbs sweeps)."""
        draw = next(itertools.islice(self._draws(self._wanted(latent), rng), _SWEEPS - 1, None))
        normal = self._solve(draw)
        return normal * np.sqrt(rng.chisquare(len(normal))) / np.linalg.norm(normal)

    def sides(self, normal: Normal) -> Float64[np.ndarray, "{self.latent_dim}"]:
        """The sides <V_i, r> of all bits."""
        return self.factor[1 : 1 + self.latent_dim] @ normal

    def latents(self, normals: Float64[np.ndarray, "K M"]) -> Int8[np.ndarray, "K N"]:
        """Return the latents of these normals: the signs of their sides, with sign(0) = +1.

        The boundary is taken to be on the positive side.
        """
        return np.where(normals @ self.factor[1 : 1 + self.latent_dim].T >= 0, np.int8(1), np.int8(-1))

    @cached_property
    def _smoother(self) -> Float64[np.ndarray, "M M"]:
        """L, in Fortran order for BLAS."""
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
        """Yield the sides x of each Gibbs sweep, with the signs ``wanted``; a side with 0 is free."""
        size, deviation, smoother = len(wanted), np.sqrt(_NOISE), self._smoother
        start = self.factor @ rng.standard_normal(size)
        known = slice(1 + self.latent_dim)
        sides = start + self._predictor @ (wanted - np.sign(start))[known]
        while True:
            inner = blas.dtrmv(smoother, sides, lower=1, trans=1) + deviation * rng.standard_normal(size)
            smooth = blas.dtrmv(smoother, inner, lower=1) / deviation
            # A truncated Gaussian by its inverse distribution function, in logarithms, which stay accurate
            # far out in the tail.
            centre = wanted * smooth
            cut = centre - special.ndtri_exp(special.log_ndtr(centre) - rng.standard_exponential(size))
            bounded = wanted * np.maximum(deviation * cut, _MIN_MARGIN)
            sides = np.where(wanted == 0, deviation * (smooth + rng.standard_normal(size)), bounded)
            yield sides

    def _solve(self, sides: Normal) -> Normal:
        normal: Normal = linalg.solve_triangular(self.factor, sides, lower=True, check_finite=False)
        return normal
