"""Exact second moments of latents and attributes as integer sums.

For a row with latent y and A attributes, s = [y; p; q; 1], where p_j = 1 if attribute j is set and q_j = 1 if
it is known to be unset. The moment sums are S = sum of s sT over the rows, in int64. They are added and
subtracted exactly, so any sharding gives the same S. As a real variable an attribute is a = p - q, averaged
over the rows where it is known.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64


@dataclass(frozen=True, kw_only=True)
class MomentSums:
    """S = sum of s sT, (D, D) with D = N + 2 A + 1, and the names of its attributes."""

    sums: Int64[np.ndarray, "D D"]
    latent_dim: int
    attributes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        side = self.latent_dim + 2 * len(self.attributes) + 1
        if self.sums.shape != (side, side):
            raise ValueError(
                f"moment sums have shape {self.sums.shape}; N and the attributes need {(side, side)}"
            )

    def __repr__(self) -> str:
        return (
            f"MomentSums(rows={self.count}, latent_dim={self.latent_dim}, attributes={len(self.attributes)})"
        )

    def __add__(self, other: "MomentSums") -> "MomentSums":
        self._check_same(other)
        return MomentSums(sums=self.sums + other.sums, latent_dim=self.latent_dim, attributes=self.attributes)

    def __sub__(self, other: "MomentSums") -> "MomentSums":
        """Return the sums without the rows of ``other``.

        ValueError if no rows can have the resulting sums (:meth:`is_possible`). The check cannot find every
        mistake, so callers also compare the tables that were summed
        (:class:`lbae.io.artifacts.moments_artifact.Lineage`).
        """
        self._check_same(other)
        rest = MomentSums(sums=self.sums - other.sums, latent_dim=self.latent_dim, attributes=self.attributes)
        if not rest.is_possible():
            raise ValueError("the rows to remove are not among the rows summed")
        return rest

    def _check_same(self, other: "MomentSums") -> None:
        if (self.latent_dim, self.attributes) != (other.latent_dim, other.attributes):
            raise ValueError(
                "moment sums of different latent_dim or attributes cannot be added or subtracted"
            )

    def is_possible(self) -> bool:
        """Whether |S_ij| <= K <= 2**52, counts are not negative, and the bits have K on the diagonal.

        These conditions hold for all sums of K rows; the limit keeps sums of sums exact.
        """
        n, counts = self.latent_dim, self.sums[self.latent_dim :, self.latent_dim :]
        return bool(
            self.count <= 2**52
            and (np.diag(self.sums)[:n] == self.count).all()
            and (self.sums <= self.count).all()
            and (self.sums >= -self.count).all()
            and (counts >= 0).all()
        )

    @property
    def count(self) -> int:
        """K, the number of rows summed."""
        return int(self.sums[-1, -1])

    @property
    def mean(self) -> Float64[np.ndarray, "N"]:
        """E[y]."""
        n = self.latent_dim
        return self.sums[:n, -1] / self.count

    @property
    def second(self) -> Float64[np.ndarray, "N N"]:
        """E[y yT]."""
        n = self.latent_dim
        return self.sums[:n, :n] / self.count

    @property
    def moment_matrix(self) -> Float64[np.ndarray, "M M"]:
        """M = [[1, E[y]T], [E[y], E[y yT]]], the boundary first; M = N + 1 (slide 13)."""
        return moment_matrix(self.mean, self.second)


def moment_matrix(
    mean: Float64[np.ndarray, "N"], second: Float64[np.ndarray, "N N"]
) -> Float64[np.ndarray, "M M"]:
    """[[1, meanT], [mean, second]]: row 0 is the boundary, as in every factor of this package."""
    matrix = np.empty((len(mean) + 1, len(mean) + 1))
    matrix[0, 0] = 1.0
    matrix[0, 1:] = matrix[1:, 0] = mean
    matrix[1:, 1:] = second
    return matrix
