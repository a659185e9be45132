"""Check that no key of latent tables occurs twice."""

import itertools
from collections.abc import Callable

import numpy as np

from lbae.distributed.digests.repeated_rows import RepeatedRows
from lbae.distributed.latent_table.table_scan import Scan
from lbae.errors import UserError
from lbae.io.artifacts.latent_tables import LatentTables
from lbae.io.sources.hashes import key_digests
from lbae.report.progress import ProgressLine

_NAMED = 5  # keys that the message lists


def check_unique_keys(table: LatentTables, found: Scan, check_lock: Callable[[], None]) -> None:
    """Raise UserError if keys occur more than once; the message names up to five of them."""
    starts, before = {}, 0
    for part, groups in itertools.groupby(found.row_groups, key=lambda group: group.part):
        starts[part] = before
        before += sum(group.rows for group in groups)
    repeated = RepeatedRows(found.rows, distinct=True)
    with ProgressLine("compare", found.rows, "keys") as line:
        repeated.add_each(
            list(starts),
            lambda part: (key_digests(table.read(part, ["key"])["key"]), starts[part]),
            lambda part: f"reading keys of {part}",
            line,
            check_lock,
            in_tasks=repeated.needs_ray,
        )
    bits = repeated.left_out(check_lock)
    some = np.flatnonzero(bits)[:_NAMED]
    rows = np.flatnonzero(np.unpackbits(bits[some], bitorder="little"))[:_NAMED]
    if names := {_key(table, starts, int(8 * some[row // 8] + row % 8)) for row in rows}:
        raise UserError(
            f"keys of {table} occur more than once: {', '.join(sorted(names))}; encode the table again, or of"
            f" several tables one, with a name for its images (--data NAME=URI)"
        )


def _key(table: LatentTables, starts: dict[str, int], row: int) -> str:
    """The key of a row of the tables, from the first rows of their parts."""
    part = next(part for part in reversed(starts) if starts[part] <= row)
    return str(table.read(part, ["key"])["key"][row - starts[part]])
