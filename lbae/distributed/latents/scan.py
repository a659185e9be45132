"""A first look at the part files of a latent table, by Ray tasks: their row groups, digests, and values of
columns.
"""

from dataclasses import dataclass
from typing import Any

import ray

from lbae.distributed.cluster.resources import cluster_cpus
from lbae.io.artifacts.attribute_columns import column_values, merge_values
from lbae.io.artifacts.latent_table import LatentTable, RowGroup


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What a first look at some part files gives: row groups, a digest a part, the distinct values of some
    columns.
    """

    groups: list[RowGroup]
    digests: dict[str, str]
    values: dict[str, set[Any]]

    @property
    def rows(self) -> int:
        """Rows in all."""
        return sum(group.rows for group in self.groups)


def scan(table: LatentTable, columns: list[str]) -> Scan:
    """Footers of all part files, and the distinct values of ``columns``."""
    chunks = min(2 * cluster_cpus(), len(table.parts))
    found: list[Scan] = ray.get([_scan.remote(table, table.parts[i::chunks], columns) for i in range(chunks)])
    return Scan(
        groups=sorted(
            (group for one in found for group in one.groups), key=lambda group: (group.part, group.index)
        ),
        digests={part: name for one in found for part, name in one.digests.items()},
        values={name: merge_values(one.values[name] for one in found) for name in columns},
    )


@ray.remote
def _scan(table: LatentTable, parts: list[str], columns: list[str]) -> Scan:
    groups, digests = [], {}
    values: dict[str, set[Any]] = {name: set() for name in columns}
    for part in parts:
        of_part, digests[part] = table.footer(part, ["latent", *columns])
        groups += of_part
        if columns:
            for name, seen in column_values(table.read(part, columns), columns).items():
                values[name] = merge_values([values[name], seen])
    return Scan(groups=groups, digests=digests, values=values)
