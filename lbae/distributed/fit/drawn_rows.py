"""Rows of a latent table drawn uniformly by a hash of their keys, so the same on any cluster."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray
from jaxtyping import Float64

from lbae.distributed.latent_table.row_group_assignment import assign_row_groups
from lbae.distributed.latent_table.table_scan import Scan
from lbae.io.artifacts.latent_table import LatentTable, RowGroup
from lbae.io.sources.source import key_fractions


@dataclass(frozen=True, kw_only=True)
class DrawnRows:
    """Rows in the order of the hash of their keys, a number in [0, 1), out of a table with ``total`` rows.

    The first of them are drawn uniformly, too.
    """

    rows: pa.Table
    hashes: Float64[np.ndarray, "K"]
    total: int

    def first(self, most: int) -> pa.Table:
        """About ``most`` rows, or all that were drawn."""
        return self.rows.slice(0, int(np.searchsorted(self.hashes, most / self.total)))


def draw_rows(table: LatentTable, found: Scan, columns: list[str], most: int) -> DrawnRows:
    """Draw about ``most`` rows of a table, or all of a smaller one; ``columns`` hold "key"."""
    share = min(1.0, most / found.rows)
    tasks = [
        _draw.remote(table, row_groups, columns, share) for row_groups in assign_row_groups(found.row_groups)
    ]
    rows = pa.concat_tables(ray.get(tasks))
    hashes = key_fractions(rows["key"])
    order = np.argsort(hashes, kind="stable")
    return DrawnRows(rows=rows.take(order).combine_chunks(), hashes=hashes[order], total=found.rows)


@ray.remote
def _draw(table: LatentTable, row_groups: list[RowGroup], columns: list[str], share: float) -> pa.Table:
    batches = table.batches(row_groups, columns)
    if share == 1:
        return pa.concat_tables(batches)
    return pa.concat_tables(rows.filter(pa.array(key_fractions(rows["key"]) < share)) for rows in batches)
