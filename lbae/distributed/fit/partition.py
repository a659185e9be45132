"""Partitions of a latent table into components: by a column, or by the appearance of the decoded images.

They are learned on a subset of the table that fits in memory.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from jaxtyping import Bool, Int8

from lbae.core.latents.packing import unpack
from lbae.core.network.codec import Codec
from lbae.core.prior.appearance import appearance
from lbae.core.prior.mixture import ScoredPartition, nearest_center, try_clusters, try_partition
from lbae.distributed.latent_table.grouped_sums import Partitioner
from lbae.distributed.latent_table.row_group_assignment import assign_row_groups
from lbae.distributed.latent_table.table_scan import Scan
from lbae.errors import UserError
from lbae.io.artifacts.attribute_columns import MAX_CLASSES
from lbae.io.artifacts.latent_table import LatentTable, RowGroup, packed_latents
from lbae.io.sources.source import held_out, key_fractions

_COMPONENT_COUNTS = (200, 50, 10, 1)
_BITS_PER_ROW = 3  # a component has at least N / 3 rows on average
_MAX_PRIOR_BYTES = 512 * 2**20
_SUBSET_ROWS = 60_000
_HELD_OUT_ROWS = 2_000
_DECODED_ROWS, _DECODED_VALUES = 2**12, 2**24  # most rows and pixel values decoded at a time


@dataclass(frozen=True, kw_only=True)
class Subset:
    """Uniformly drawn rows that fit in memory, and their latents; ``held_out`` marks those not fitted."""

    rows: pa.Table
    latents: Int8[np.ndarray, "K N"]
    held_out: Bool[np.ndarray, "K"]


def draw_subset(table: LatentTable, found: Scan, by: str | None) -> Subset:
    """A uniform subset of about 60,000 rows, the same for any number of tasks and any order of the table.

    Not the first rows, because tables are often sorted by class. ``by`` is a column to read as well.
    """
    rows = draw_rows(table, found, ["key", "latent", *([by] if by else [])], _SUBSET_ROWS)
    return Subset(
        rows=rows, latents=unpack(packed_latents(rows), table.latent_dim), held_out=held_out(rows["key"])
    )


def draw_rows(table: LatentTable, found: Scan, columns: list[str], most: int) -> pa.Table:
    """About ``most`` rows of a table, drawn uniformly by a hash of the key and sorted by that hash."""
    share = min(1.0, most / found.rows)
    tasks = [
        _draw.remote(table, row_groups, columns, share) for row_groups in assign_row_groups(found.row_groups)
    ]
    rows = pa.concat_tables(ray.get(tasks))
    return rows.take(np.argsort(key_fractions(rows["key"]), kind="stable"))


@ray.remote
def _draw(table: LatentTable, row_groups: list[RowGroup], columns: list[str], share: float) -> pa.Table:
    batches = table.batches(row_groups, columns)
    if share == 1:
        return pa.concat_tables(batches)
    return pa.concat_tables(rows.filter(pa.array(key_fractions(rows["key"]) < share)) for rows in batches)


@dataclass(frozen=True, kw_only=True)
class Partition:
    """A partition of rows into ``count`` components.

    ``partitioner`` maps rows with ``columns`` to components. ``within`` is the covariance pooled within the
    components, and ``shrinkage`` how far components with few rows shrink toward it.
    """

    count: int
    partitioner: Partitioner
    columns: list[str]
    within: np.ndarray
    shrinkage: float
    facts: dict[str, Any]


def column_partition(subset: Subset, found: Scan, column: str) -> Partition:
    """One component per value of a column; rows without a value belong to none.

    UserError for a column with no value or with more than MAX_CLASSES, and for one whose values in the subset
    are all in held-out rows.
    """
    if not 0 < len(found.values[column]) <= MAX_CLASSES:
        raise UserError(
            f"column {column!r} has more than {MAX_CLASSES} distinct values, or none; --by makes"
            " one component per value"
        )
    values = pa.array(sorted(found.values[column]))

    def partitioner(rows: pa.Table) -> np.ndarray:
        return pc.fill_null(pc.index_in(rows[column].cast(values.type), values), -1).to_numpy()

    labels = partitioner(subset.rows)
    known = labels >= 0
    if not (known & ~subset.held_out).any():
        raise UserError(
            f"column {column!r} has a value in {int(known.sum())} of the {len(known)} rows drawn for fitting,"
            " all of them held out: too few for one component per value"
        )
    scored: ScoredPartition = ray.get(
        _try_classes.remote(subset.latents[known], subset.held_out[known], labels[known])
    )
    return Partition(
        count=len(values),
        partitioner=partitioner,
        columns=["latent", column],
        within=scored.within,
        shrinkage=scored.shrinkage,
        facts=scored.facts(),
    )


def cluster_partitions(
    table: LatentTable, subset: Subset, codec: Codec, attributes: int, count: int | None, seed: int
) -> Iterator[Partition]:
    """Yield partitions by k-means on the appearance of the decoded images, each computed on demand.

    Args:
        table: the latent table.
        subset: the rows to learn from.
        codec: decodes latents.
        attributes: number of attributes, which add to the prior's size.
        count: number of clusters; None tries decreasing counts, from the most that rows and bundle size
            allow.
        seed: seed of the clustering.
    """
    train = subset.latents[~subset.held_out]
    if count and count > len(train):
        raise UserError(
            f"components is {count}; allowed: 1 to the {len(train)} rows that are not held out of clustering"
        )
    if not len(train):
        raise UserError(
            f"all {len(subset.held_out)} rows are held out of clustering; give a table with more rows"
        )
    shared, step = ray.put(codec), _decoded_rows(codec)
    tasks = [_appearance.remote(shared, train[i : i + step]) for i in range(0, len(train), step)]
    appearances = np.concatenate(ray.get(tasks))
    unseen = subset.latents[subset.held_out][:_HELD_OUT_ROWS]
    known = [ray.put(array) for array in (train, appearances, unseen)]
    for number in [count] if count else _cluster_counts(table, subset, attributes):
        yield _appearance_partition(table, codec, ray.get(_try_clusters.remote(*known, number, seed)))


def _appearance_partition(table: LatentTable, codec: Codec, scored: ScoredPartition) -> Partition:
    centers = scored.centers
    assert centers is not None
    step = _decoded_rows(codec)

    def partitioner(rows: pa.Table) -> np.ndarray:
        if len(centers) == 1:  # no image needs decoding
            return np.zeros(len(rows), dtype=np.int64)
        chunks = (rows.slice(start, step) for start in range(0, len(rows), step))
        latents = (unpack(packed_latents(chunk), table.latent_dim) for chunk in chunks)
        return np.concatenate([nearest_center(appearance(codec.decode(z)), centers) for z in latents])

    return Partition(
        count=len(centers),
        partitioner=partitioner,
        columns=["latent"],
        within=scored.within,
        shrinkage=scored.shrinkage,
        facts=scored.facts(),
    )


def _decoded_rows(codec: Codec) -> int:
    return min(_DECODED_ROWS, max(1, _DECODED_VALUES // math.prod(codec.config.image_shape)))


def _cluster_counts(table: LatentTable, subset: Subset, attributes: int) -> list[int]:
    """Numbers of clusters to try, largest first: enough rows per component, and a prior of limited size.

    Only 1 if no rows are held out, because nothing could then tell whether more clusters memorize.
    """
    rows, bits = table.manifest.rows, table.latent_dim
    most = min(_BITS_PER_ROW * rows // bits, _MAX_PRIOR_BYTES // (2 * (bits + attributes + 1) ** 2))
    return (
        [number for number in _COMPONENT_COUNTS if number <= max(1, most)] if subset.held_out.any() else [1]
    )


@ray.remote
def _appearance(codec: Codec, latents: np.ndarray) -> np.ndarray:
    return appearance(codec.decode(latents))


_try_clusters = ray.remote(try_clusters)


@ray.remote
def _try_classes(latents: np.ndarray, held_out: np.ndarray, labels: np.ndarray) -> ScoredPartition:
    return try_partition(latents[~held_out], labels[~held_out], latents[held_out][:_HELD_OUT_ROWS])
