"""Rows of latent tables drawn uniformly by a hash of their keys, so the same on any cluster."""

import itertools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float64

from lbae.distributed.cluster.calls import call_each
from lbae.distributed.latent_table.row_group_assignment import assign_row_groups
from lbae.distributed.latent_table.table_scan import Scan
from lbae.errors import UserError
from lbae.io.artifacts.latent_table import RowGroup
from lbae.io.artifacts.latent_tables import LatentTables
from lbae.io.sources.hashes import key_fractions


@dataclass(frozen=True, kw_only=True)
class DrawnRows:
    """Rows in the order of the hash of their keys, a number in [0, 1), out of ``total`` rows.

    The first of them are drawn uniformly, too.
    """

    rows: pa.Table
    hashes: Float64[np.ndarray, "K"]
    total: int

    def first(self, most: int) -> pa.Table:
        """About ``most`` rows, or all that were drawn."""
        return self.rows.slice(0, int(np.searchsorted(self.hashes, most / self.total)))


def draw_rows(table: LatentTables, found: Scan, columns: list[str], most: int) -> DrawnRows:
    """Draw about ``most`` rows of the tables, or all of fewer; ``columns`` hold "key".

    UserError for a key that was drawn more than once: the hash draws all rows that share one.
    """
    share = min(1.0, most / found.rows)
    calls = [(row_groups, columns, share) for row_groups in assign_row_groups(found.row_groups)]
    drawn = [one for some in call_each(_draw, (table,), calls) for one in some]
    rows = pa.concat_tables([rows for _, rows in drawn])
    hashes = key_fractions(rows["key"])
    order = np.argsort(hashes, kind="stable")
    sources = np.repeat(np.arange(len(drawn)), [len(rows) for _, rows in drawn])
    equal = np.flatnonzero(np.diff(hashes[order]) == 0)
    for row, other in zip(order[equal].tolist(), order[equal + 1].tolist(), strict=True):
        if rows["key"][row] == rows["key"][other]:
            holders = [table.holder(drawn[sources[i]][0]).uri for i in (row, other)]
            raise UserError(
                f"key {rows['key'][row].as_py()!r:.100} occurs in latent table {holders[0]} and again in"
                f" {holders[1]}; every image needs a key of its own: leave one of the tables out, or name its"
                f" images when they are encoded (--data NAME=URI), so that their keys begin with the name"
            )
    return DrawnRows(rows=rows.take(order).combine_chunks(), hashes=hashes[order], total=found.rows)


def _draw(
    table: LatentTables, row_groups: list[RowGroup], columns: list[str], share: float
) -> list[tuple[str, pa.Table]]:
    """The rows drawn from each part, with the part."""
    drawn = []
    for part, groups in itertools.groupby(row_groups, key=lambda group: group.part):
        for rows in table.batches(list(groups), columns):
            kept = rows if share == 1 else rows.filter(pa.array(key_fractions(rows["key"]) < share))
            drawn.append((part, kept))
    return drawn
