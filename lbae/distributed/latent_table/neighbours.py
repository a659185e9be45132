"""Nearest-neighbour search in latent tables: each task searches some row groups, the driver merges."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from lbae.core.latents.hamming import nearest
from lbae.distributed.cluster.calls import call_each
from lbae.distributed.cluster.resources import cluster_cpus
from lbae.distributed.latent_table.row_group_assignment import assign_row_groups
from lbae.distributed.latent_table.table_scan import scan
from lbae.io.artifacts.latent_table import RowGroup, packed_latents
from lbae.io.artifacts.latent_tables import LatentTables

_TASK_ROWS = 2**20
# One int64 holds a distance (high bits) and a row number (low bits), so sorting orders by distance, then row.
_ROW_BITS = 40


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A latent found by a search: its distance in bits, and its row in a row group of a part file."""

    distance: int
    part: str
    row_group: int
    row: int


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """The ``k`` nearest latents of every query, nearest first; fewer where the table has fewer rows."""

    row_groups: Sequence[RowGroup]
    found: Int64[np.ndarray, "Q k"]

    @property
    def distances(self) -> Int64[np.ndarray, "Q k"]:
        """Hamming distances in bits."""
        return self.found >> _ROW_BITS

    def hits(self, query: int) -> list[Hit]:
        """The latents nearest to one query."""
        starts = np.cumsum([0, *(group.rows for group in self.row_groups)])
        found = []
        for distance, row in zip(self.distances[query], self.found[query] & (2**_ROW_BITS - 1), strict=True):
            place = int(np.searchsorted(starts, row, side="right")) - 1
            group = self.row_groups[place]
            found.append(
                Hit(
                    distance=int(distance),
                    part=group.part,
                    row_group=group.index,
                    row=int(row - starts[place]),
                )
            )
        return found


def nearest_in(
    table: LatentTables,
    packed: UInt8[np.ndarray, "Q B"],
    k: int,
    runtime_env: dict[str, Any] | None = None,
) -> Nearest:
    """The ``k`` latents of the tables nearest to each packed query; ties go to the earlier row.

    ``runtime_env`` is that of the tasks' processes.
    """
    row_groups = scan(table, [], runtime_env).row_groups
    tasks = max(cluster_cpus(), -(-table.rows // _TASK_ROWS))
    calls, start = [], 0
    for assigned in assign_row_groups(row_groups, tasks):
        calls.append((assigned, start, k))
        start += sum(group.rows for group in assigned)
    found = np.empty((len(packed), 0), dtype=np.int64)
    for part in call_each(_nearest, (table, packed), calls, runtime_env):
        found = np.sort(np.concatenate([found, part], axis=1), axis=1)[:, :k]
    return Nearest(row_groups=row_groups, found=found)


def _nearest(
    table: LatentTables, packed: UInt8[np.ndarray, "Q B"], row_groups: Sequence[RowGroup], start: int, k: int
) -> Int64[np.ndarray, "Q k"]:
    """Distance and row as one number per latent found; ``start`` is the table row to begin at."""
    found = np.empty((len(packed), 0), dtype=np.int64)
    for rows in table.batches(row_groups, ["latent"]):
        distances, places = nearest(packed, packed_latents(rows), k)
        some = (distances.astype(np.int64) << _ROW_BITS) | (places + start)
        found = np.sort(np.concatenate([found, some], axis=1), axis=1)[:, :k]
        start += len(rows)
    return found
