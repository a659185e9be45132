"""Exact second moments of latents and attributes as integer sums.

For a row with latent y and A attributes, s = [y; p; q; 1], where p_j = 1 if attribute j is set and q_j = 1 if it is known to
be unset. The state is S = sum of s sT over the rows, in int64: it merges and subtracts exactly, so any sharding gives the
same bits. As a real variable an attribute is a = p - q, averaged over the rows where it is known.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, UInt8

from lbae.core.packing import unpack

# A float32 sum of products of -1, 0 and +1 is exact while no partial sum can reach 2**24: at most 2**24 - 1 rows a block.
# 2**15 rows keep the unpacked block of N = 1500 below 200 MB.
_BLOCK_ROWS = 2**15


@dataclass(frozen=True, kw_only=True)
class MomentSums:
    """S = sum of s sT, (D, D) with D = N + 2 A + 1, and the names of its attributes."""

    sums: Int64[np.ndarray, "D D"]
    latent_dim: int
    attributes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        side = self.latent_dim + 2 * len(self.attributes) + 1
        if self.sums.shape != (side, side):
            raise ValueError(f"moment sums have shape {self.sums.shape}; N and the attributes need {(side, side)}")

    def __add__(self, other: "MomentSums") -> "MomentSums":
        if (self.latent_dim, self.attributes) != (other.latent_dim, other.attributes):
            raise ValueError("moment sums of different latent_dim or attributes cannot be added")
        return MomentSums(sums=self.sums + other.sums, latent_dim=self.latent_dim, attributes=self.attributes)

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


def moment_matrix(mean: Float64[np.ndarray, "N"], second: Float64[np.ndarray, "N N"]) -> Float64[np.ndarray, "M M"]:
    """[[1, mean T], [mean, second]]: row 0 is the boundary, as in every factor of this package."""
    matrix = np.empty((len(mean) + 1, len(mean) + 1))
    matrix[0, 0] = 1.0
    matrix[0, 1:] = matrix[1:, 0] = mean
    matrix[1:, 1:] = second
    return matrix


def moment_sums(
    packed: UInt8[np.ndarray, "K B"],
    latent_dim: int,
    attributes: tuple[str, ...] = (),
    present: Bool[np.ndarray, "K A"] | None = None,
    absent: Bool[np.ndarray, "K A"] | None = None,
) -> MomentSums:
    """Sums over the rows of packed latents and of attribute indicators (set: ``present``, known to be unset: ``absent``)."""
    rows = len(packed)
    if present is None or absent is None:
        present = absent = np.zeros((rows, 0), dtype=bool)
    side = latent_dim + 2 * len(attributes) + 1
    total = np.zeros((side, side), dtype=np.int64)
    for start in range(0, rows, _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        latents = unpack(packed[block], latent_dim)
        ones = np.ones((len(latents), 1), dtype=np.int8)
        columns = [latents, present[block].astype(np.int8), absent[block].astype(np.int8), ones]
        s = torch.from_numpy(np.concatenate(columns, axis=1)).float()
        total += (s.T @ s).numpy().astype(np.int64)
    return MomentSums(sums=total, latent_dim=latent_dim, attributes=attributes)
