"""Draws of a prior's first normals, given attributes.

Under a component, the sides of the k attributes asked for are t + L z, with z ~ N(0, I). L = T Q with T lower
triangular and orthonormal rows of Q, so y = Q z are independent normals too, and attribute i depends on the
first i of them only. Each y_i is drawn from N(0, 1) truncated to where attribute i is as asked for. Such a
draw is accepted with the probability p_1 p_2 ... p_k that untruncated draws would have had, p_i given the
y before i. That is exact (Geweke, Hajivassiliou and Keane's simulator, as rejection sampling).

With constant thresholds p_1 depends on the component alone. It then goes into the choice of the component,
and a draw with one attribute is always accepted.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from scipy import special

_LEAST = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class GivenAttributes:
    """What draws with k attributes need of each component, rarest attribute first.

    If the first normal is ``constant``, ``share`` is the probability of the first attribute, and ``weights``
    are those of the components that have it. Else ``share`` is 1.
    """

    constant: bool
    share: float
    weights: Float64[np.ndarray, "C"]
    thresholds: Float64[np.ndarray, "C k"]
    triangles: Float64[np.ndarray, "C k k"]
    frames: Float64[np.ndarray, "C k A"]

    @classmethod
    def of(
        cls,
        weights: Float64[np.ndarray, "C"],
        heads: Float32[np.ndarray, "C H H"],
        wanted: Mapping[int, bool],
        constant: bool,
    ) -> "GivenAttributes":
        """Draws with the values ``wanted`` in rows of ``heads``, the factors over [boundary; attributes].

        ``constant`` says whether the first normal is always 1.
        """
        signs = np.array([1.0 if value else -1.0 for value in wanted.values()])
        rows = heads[:, list(wanted)].astype(np.float64) * signs[:, None]
        alone = _probability(rows[:, :, 0], np.linalg.norm(rows[:, :, 1:], axis=2))
        rows = rows[:, np.argsort(weights @ alone, kind="stable")]
        frames, triangles = np.linalg.qr(rows[:, :, 1:].swapaxes(1, 2))
        flips = np.where(np.diagonal(triangles, axis1=1, axis2=2) < 0, -1.0, 1.0)
        likely = weights * alone[:, np.argmin(weights @ alone)] if constant else weights
        share = float(likely.sum())
        return cls(
            constant=constant,
            share=share,
            weights=likely / share if share > 0 else weights,
            thresholds=rows[:, :, 0],
            triangles=(triangles * flips[:, :, None]).swapaxes(1, 2),
            frames=(frames * flips[:, None, :]).swapaxes(1, 2),
        )

    def tried(
        self, rng: np.random.Generator, normals: Float32[np.ndarray, "B H"]
    ) -> tuple[Int64[np.ndarray, "B"], Float32[np.ndarray, "B H"], Bool[np.ndarray, "B"]]:
        """Components, first normals with the attributes, and whether each draw is accepted.

        ``normals`` are unconditional draws, whose part outside the span of the frames stays.
        """
        chosen = rng.choice(len(self.weights), size=len(normals), p=self.weights)
        thresholds, triangles, frames = (
            part[chosen] for part in (self.thresholds, self.triangles, self.frames)
        )
        free = np.einsum("bka,ba->bk", frames, normals[:, 1:].astype(np.float64))
        held, accepted = free.copy(), np.ones(len(normals))
        uniform = 1 - rng.random(free.shape)
        for i in range(free.shape[1]):
            mean = thresholds[:, i] * normals[:, 0] + np.einsum("bj,bj->b", triangles[:, i, :i], held[:, :i])
            spread = triangles[:, i, i]
            chance = _probability(mean, spread)
            truncated = -special.ndtri(np.maximum(chance * uniform[:, i], _LEAST))
            held[:, i] = np.where(spread > 0, truncated, free[:, i])
            if i or not self.constant:
                accepted *= chance
        heads = normals.copy()
        heads[:, 1:] += np.einsum("bk,bka->ba", held - free, frames)
        return chosen, heads, rng.random(len(normals)) < accepted


def _probability(mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """P(mean + spread z >= 0) for z ~ N(0, 1)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 0, special.ndtr(mean / spread), mean >= 0)
