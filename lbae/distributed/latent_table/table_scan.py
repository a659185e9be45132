"""The scan of latent tables before a pass over them: footers, digests, and distinct values of columns."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from lbae.distributed.cluster.calls import call_each
from lbae.distributed.cluster.resources import cluster_cpus
from lbae.errors import UserError
from lbae.io.artifacts.attribute_columns import column_values, merge_values
from lbae.io.artifacts.latent_table import RowGroup
from lbae.io.artifacts.latent_tables import LatentTables


@dataclass(frozen=True, kw_only=True)
class Scan:
    """The row groups of tables in their order, part files' digests, and distinct values of some columns."""

    row_groups: list[RowGroup]
    digests: dict[str, str]
    values: dict[str, set[Any]]

    @property
    def rows(self) -> int:
        """The number of rows of all row groups."""
        return sum(group.rows for group in self.row_groups)


def scan(table: LatentTables, columns: list[str], runtime_env: dict[str, Any] | None = None) -> Scan:
    """Scan all part files of the tables, with the distinct values of ``columns``, in tasks.

    ``runtime_env`` is that of the tasks' processes.
    """
    parts = table.parts
    chunks = min(2 * cluster_cpus(), len(parts))
    calls = [(parts[i::chunks], columns) for i in range(chunks)]
    found = list(call_each(_scan, (table,), calls, runtime_env))
    numbers = {part: number for number, part in enumerate(parts)}
    return Scan(
        row_groups=sorted(
            (group for some in found for group in some.row_groups),
            key=lambda group: (numbers[group.part], group.index),
        ),
        digests={part: digest for some in found for part, digest in some.digests.items()},
        values={name: merge_values(some.values[name] for some in found) for name in columns},
    )


def check_scan(table: LatentTables, found: Scan) -> None:
    """UserError if a table has more or fewer rows than its manifest says, or two part files hold the same."""
    of_parts, rows, first = Counter[str](), Counter[str](), dict[str, str]()
    for group in found.row_groups:
        of_parts[group.part] += group.rows
    for part, count in of_parts.items():
        rows[table.holder(part).uri] += count
    for one in table.tables:
        if rows[one.uri] != one.rows:
            raise UserError(
                f"the part files of {one.uri} hold {rows[one.uri]} rows, its manifest says {one.rows}: a file"
                f" was replaced; encode the table again"
            )
    for part in sorted(+of_parts):
        if (other := first.setdefault(found.digests[part], part)) != part:
            raise UserError(
                f"latent tables {table} share rows: {other} and {part} hold the same; leave out the table"
                f" that another one continues"
            )


def _scan(table: LatentTables, parts: list[str], columns: list[str]) -> Scan:
    row_groups, digests = [], {}
    values: dict[str, set[Any]] = {name: set() for name in columns}
    for part in parts:
        of_part, digests[part] = table.footer(part, ["latent", *columns])
        row_groups += of_part
        if columns:
            for name, found in column_values(table.read(part, columns), columns).items():
                values[name] = merge_values([values[name], found])
    return Scan(row_groups=row_groups, digests=digests, values=values)
