"""The nearest latents of a table: every task finds those in a run of row groups, the driver keeps the nearest
of all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import ray
from jaxtyping import Int64, UInt8

from lbae.core.latents.hamming import nearest
from lbae.distributed.cluster.resources import cluster_cpus
from lbae.io.artifacts.latent_table import LatentTable, RowGroup, packed_latents
from lbae.io.sources.plan import runs

_TASK_ROWS = 2**20
# What is found is one number, so that the smallest are the nearest, and of those equally far the first.
_ROW_BITS = 40


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A latent that was found: its distance in bits, and its row in a row group of a part of the table."""

    distance: int
    part: str
    group: int
    row: int


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """The ``k`` nearest latents of every query, nearest first; fewer where the table has fewer rows."""

    groups: Sequence[RowGroup]
    found: Int64[np.ndarray, "Q k"]

    @property
    def distances(self) -> Int64[np.ndarray, "Q k"]:
        """In bits."""
        return self.found >> _ROW_BITS

    def hits(self, query: int) -> list[Hit]:
        """Where the latents nearest to one query stand."""
        starts = np.cumsum([0, *(group.rows for group in self.groups)])
        found = []
        for distance, row in zip(self.distances[query], self.found[query] & (2**_ROW_BITS - 1), strict=True):
            place = int(np.searchsorted(starts, row, side="right")) - 1
            group = self.groups[place]
            found.append(
                Hit(distance=int(distance), part=group.part, group=group.index, row=int(row - starts[place]))
            )
        return found


def nearest_in(table: LatentTable, packed: UInt8[np.ndarray, "Q B"], k: int) -> Nearest:
    """The k latents of a table nearest to each of some packed ones; of those equally far the first."""
    groups = [group for part in table.parts for group in table.footer(part, [])[0]]
    starts = np.cumsum([0, *(group.rows for group in groups)])
    most = min(_TASK_ROWS, -(-table.manifest.rows // cluster_cpus()))
    cut = runs([group.rows for group in groups], [0] * len(groups), most, 1)
    shared = ray.put(table), ray.put(packed)
    partial = [_nearest.remote(*shared, groups[first:last], int(starts[first]), k) for first, last in cut]
    found = np.empty((len(packed), 0), dtype=np.int64)
    for part in partial:
        found = np.sort(np.concatenate([found, ray.get(part)], axis=1), axis=1)[:, :k]
    return Nearest(groups=groups, found=found)


@ray.remote(num_cpus=1)
def _nearest(
    table: LatentTable, packed: UInt8[np.ndarray, "Q B"], groups: Sequence[RowGroup], start: int, k: int
) -> Int64[np.ndarray, "Q k"]:
    found = np.empty((len(packed), 0), dtype=np.int64)
    for rows in table.batches(groups, ["latent"]):
        distances, places = nearest(packed, packed_latents(rows), k)
        some = (distances.astype(np.int64) << _ROW_BITS) | (places + start)
        found = np.sort(np.concatenate([found, some], axis=1), axis=1)[:, :k]
        start += len(rows)
    return found
