"""Moment sums per component: one pass writes the rows sorted by component, a second sums each component."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray

from lbae.distributed.latent_table.row_group_assignment import TASK_ROWS, assign_row_groups
from lbae.distributed.latent_table.sum_tasks import sum_row_groups
from lbae.io.artifacts.attribute_columns import Attribute
from lbae.io.artifacts.latent_table import LatentTable, RowGroup
from lbae.io.artifacts.latent_tables import LatentTables
from lbae.io.storage.location import resolve
from lbae.io.storage.parquet_file import write_parquet

# Maps rows to component numbers from 0; negative for rows that belong to no component.
Partitioner = Callable[[pa.Table], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class GroupedRows:
    """A copy of the rows at ``table.uri``, in which each row group holds rows of one component."""

    table: LatentTable
    row_groups: list[list[RowGroup]]  # per component

    def sums(self, attributes: tuple[Attribute, ...]) -> Iterator[tuple[int, ray.ObjectRef]]:
        """Yield (component, reference of its moment sums) in completion order.

        No process holds the sums of more than one component, unless the caller keeps them.
        """
        tasks = [
            assign_row_groups(row_groups, max(1, sum(group.rows for group in row_groups) // TASK_ROWS))
            or [[]]
            for row_groups in self.row_groups
        ]
        for component, sums, _ in sum_row_groups(self.table, tasks, attributes):
            if sums is not None:
                yield component, sums

    def remove(self) -> None:
        """Remove the copy's files."""
        resolve(self.table.uri).remove()


def write_grouped(
    table: LatentTables,
    row_groups: Sequence[RowGroup],
    partitioner: Partitioner,
    count: int,
    columns: list[str],
    scratch: str,
) -> GroupedRows:
    """Write the rows of tables grouped by component: one part file per task, one row group per component.

    Args:
        table: the latent tables.
        row_groups: the row groups to read.
        partitioner: maps rows, with ``columns``, to component numbers.
        count: number of components.
        columns: the columns to read and to write.
        scratch: URI of the folder to write to.
    """
    written = table.copy_at(scratch)
    shared = ray.put(partitioner)
    tasks = [
        _write_by_group.remote(table, written, assigned, shared, columns, index)
        for index, assigned in enumerate(assign_row_groups(row_groups))
    ]
    by_component: list[list[RowGroup]] = [[] for _ in range(count)]
    for found in ray.get(tasks):
        for component, row_group in found:
            by_component[component].append(row_group)
    return GroupedRows(table=written, row_groups=by_component)


@ray.remote
def _write_by_group(
    table: LatentTables,
    written: LatentTable,
    row_groups: list[RowGroup],
    partitioner: Partitioner,
    columns: list[str],
    index: int,
) -> list[tuple[int, RowGroup]]:
    """Write one part file with one row group per component; return (component, row group) pairs."""
    rows = pa.concat_tables(table.batches(row_groups, columns)).combine_chunks()
    component = partitioner(rows)
    order = np.argsort(component, kind="stable")
    present, lengths = np.unique(component[component >= 0], return_counts=True)
    if not len(present):
        return []
    name = f"part-{index:05d}.parquet"
    write_parquet(written.uri, name, rows.take(order[(component < 0).sum() :]), lengths.tolist())
    return list(zip(present.tolist(), written.footer(name, columns)[0], strict=True))
