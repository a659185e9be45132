"""Moment sums of groups of rows: one pass writes the rows by group, then each group is summed."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import ray

from lbae.distributed.latents.row_group_assignment import TASK_ROWS, assign_row_groups
from lbae.distributed.latents.sum_tasks import sum_row_groups
from lbae.io.artifacts.attribute_columns import Attribute
from lbae.io.artifacts.latent_table import LatentTable, RowGroup
from lbae.io.storage.location import resolve
from lbae.io.storage.parquet_file import write_parquet

# The group of every row, from 0; below 0 for rows that belong to no group.
Partitioner = Callable[[pa.Table], np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupedRows:
    """A table written anew with the rows of each group in row groups of their own, below ``table.uri``."""

    table: LatentTable
    groups: list[list[RowGroup]]

    def sums(self, attributes: tuple[Attribute, ...]) -> Iterator[tuple[int, ray.ObjectRef]]:
        """The index and the moment sums of each group, in completion order.

        No process holds the sums of more than one group, unless the caller keeps them.
        """
        tasks = [
            assign_row_groups(group, max(1, sum(g.rows for g in group) // TASK_ROWS)) or [[]]
            for group in self.groups
        ]
        for index, sums, _ in sum_row_groups(self.table, tasks, attributes):
            if sums is not None:
                yield index, sums

    def remove(self) -> None:
        """Remove the files."""
        resolve(self.table.uri).remove()


def write_grouped(
    table: LatentTable,
    row_groups: Sequence[RowGroup],
    partitioner: Partitioner,
    count: int,
    columns: list[str],
    scratch: str,
) -> GroupedRows:
    """Write the rows of a table by group.

    Args:
        table: the latent table.
        row_groups: which of its row groups to read.
        partitioner: maps rows to their groups; it sees ``columns``.
        count: number of groups.
        columns: the columns to read and to write.
        scratch: URI of the folder to write to.
    """
    written = dataclasses.replace(table, uri=scratch)
    shared = ray.put(partitioner)
    tasks = [
        _write_by_group.remote(table, written, assigned, shared, columns, index)
        for index, assigned in enumerate(assign_row_groups(row_groups))
    ]
    groups: list[list[RowGroup]] = [[] for _ in range(count)]
    for found in ray.get(tasks):
        for index, row_group in found:
            groups[index].append(row_group)
    return GroupedRows(table=written, groups=groups)


@ray.remote
def _write_by_group(
    table: LatentTable,
    written: LatentTable,
    row_groups: list[RowGroup],
    partitioner: Partitioner,
    columns: list[str],
    index: int,
) -> list[tuple[int, RowGroup]]:
    """Write one part file, a row group per group; the group of each row group."""
    rows = pa.concat_tables(table.batches(row_groups, columns)).combine_chunks()
    group = partitioner(rows)
    order = np.argsort(group, kind="stable")
    present, lengths = np.unique(group[group >= 0], return_counts=True)
    if not len(present):
        return []
    name = f"part-{index:05d}.parquet"
    write_parquet(written.uri, name, rows.take(order[(group < 0).sum() :]), lengths.tolist())
    return list(zip(present.tolist(), written.footer(name, columns)[0], strict=True))
