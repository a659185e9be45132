"""The hyperplane sampler (slides 12-15): a random hyperplane through the sphere splits unit vectors into +1 and -1.

M = [[1, E[y]T], [E[y], E[y yT]]]      moment matrix, row 0 is the boundary
H = cos(pi/2 (1 - M)) = sin(pi/2 M)    Gram matrix wanted, since E[b_i b_j] = 2/pi asin<V_i, V_j> (Goemans-Williamson)
V VT = nearest correlation matrix to H; V lower triangular with unit rows, so V_0 = e_0
b_i = +1 if sign<V_i, r> == sign<V_0, r> else -1 with r ~ N(0, I); sign(0) = +1
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int8, Int64

from lbae.core.correlation import correlation_factor

# Sampling factors keep a tiny floor: at 1e-2 a nearly constant bit flips several times too often.
SAMPLING_FLOOR = 1e-6
# Latent i of a draw depends on (prior, seed, i): block i // BLOCK has a random stream of its own and is computed whole.
BLOCK = 256


def gram_matrix(moment_matrix: Float64[np.ndarray, "M M"]) -> Float64[np.ndarray, "M M"]:
    """The arcsine map inverted: sin(pi/2 M), entry by entry (slide 13)."""
    return np.sin(np.pi / 2 * moment_matrix)


def hyperplane_factor(
    moment_matrix: Float64[np.ndarray, "M M"], floor: float = SAMPLING_FLOOR
) -> Float64[np.ndarray, "M M"]:
    """V for a moment matrix, boundary first: lower triangular, unit rows."""
    return correlation_factor(gram_matrix(moment_matrix), floor)


def split(factor: Float32[np.ndarray, "M M"], normals: Float32[np.ndarray, "K M"]) -> Int8[np.ndarray, "K N"]:
    """Latents on either side of the hyperplanes with the given normals; N = M - 1."""
    positive = normals @ factor.T >= 0
    return np.where(positive[:, 1:] == positive[:, :1], np.int8(1), np.int8(-1))


@dataclass(frozen=True, kw_only=True)
class HyperplanePrior:
    """A mixture of hyperplane samplers: component c is drawn with its weight, then split by its factor."""

    weights: Float64[np.ndarray, "C"]
    factors: Float32[np.ndarray, "C M M"]

    @property
    def latent_dim(self) -> int:
        """N."""
        return self.factors.shape[1] - 1

    def sample(self, count: int, seed: int) -> Int8[np.ndarray, "{count} N"]:
        """``count`` latents; latent i does not depend on ``count``."""
        blocks = [self._block(seed, index) for index in range(-(-count // BLOCK))]
        return np.concatenate(blocks)[:count] if blocks else np.empty((0, self.latent_dim), dtype=np.int8)

    def _block(self, seed: int, index: int) -> Int8[np.ndarray, "B N"]:
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, index))))
        components = rng.choice(len(self.weights), size=BLOCK, p=self.weights)
        normals = rng.standard_normal((BLOCK, self.latent_dim + 1), dtype=np.float32)
        latents = np.empty((BLOCK, self.latent_dim), dtype=np.int8)
        for component in np.unique(components):
            rows: Int64[np.ndarray, R] = np.flatnonzero(components == component)
            latents[rows] = split(self.factors[component], normals[rows])
        return latents
