"""The scan of a latent table before a pass over it: footers, digests, and distinct values of columns."""

from dataclasses import dataclass
from typing import Any

from lbae.distributed.cluster.calls import call_each
from lbae.distributed.cluster.resources import cluster_cpus
from lbae.io.artifacts.attribute_columns import column_values, merge_values
from lbae.io.artifacts.latent_table import LatentTable, RowGroup


@dataclass(frozen=True, kw_only=True)
class Scan:
    """The row groups and digests of part files, and the distinct values of some of their columns."""

    row_groups: list[RowGroup]
    digests: dict[str, str]
    values: dict[str, set[Any]]

    @property
    def rows(self) -> int:
        """The number of rows of all row groups."""
        return sum(group.rows for group in self.row_groups)


def scan(table: LatentTable, columns: list[str]) -> Scan:
    """Scan all part files of a table, with the distinct values of ``columns``, in tasks."""
    chunks = min(2 * cluster_cpus(), len(table.parts))
    found = list(call_each(_scan, (table,), [(table.parts[i::chunks], columns) for i in range(chunks)]))
    return Scan(
        row_groups=sorted(
            (group for some in found for group in some.row_groups),
            key=lambda group: (group.part, group.index),
        ),
        digests={part: digest for some in found for part, digest in some.digests.items()},
        values={name: merge_values(some.values[name] for some in found) for name in columns},
    )


def _scan(table: LatentTable, parts: list[str], columns: list[str]) -> Scan:
    row_groups, digests = [], {}
    values: dict[str, set[Any]] = {name: set() for name in columns}
    for part in parts:
        of_part, digests[part] = table.footer(part, ["latent", *columns])
        row_groups += of_part
        if columns:
            for name, found in column_values(table.read(part, columns), columns).items():
                values[name] = merge_values([values[name], found])
    return Scan(row_groups=row_groups, digests=digests, values=values)
