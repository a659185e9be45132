"""Partitions of a latent table into components: by a column, or by the appearance of the decoded images.

They are learned on a subset of about 60,000 rows, and fitted to a sample, of which the subset is a part.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from jaxtyping import Bool, Float32, Int8, Int64

from lbae.core.latents.packing import unpack
from lbae.core.network.codec import Codec
from lbae.core.prior.appearance import appearance
from lbae.core.prior.mixture import ScoredPartition, nearest_center, try_clusters, try_partition
from lbae.distributed.latent_table.drawn_rows import DrawnRows
from lbae.distributed.latent_table.grouped_sums import Partitioner
from lbae.distributed.latent_table.table_scan import Scan
from lbae.errors import UserError
from lbae.io.artifacts.attribute_columns import MAX_CLASSES
from lbae.io.artifacts.latent_table import packed_latents
from lbae.io.artifacts.latent_tables import LatentTables
from lbae.io.sources.hashes import held_out

_COMPONENT_COUNTS = (200, 50, 10, 1)
_BITS_PER_ROW = 4  # a component has at least N / 4 rows on average
_MAX_PRIOR_BYTES = 512 * 2**20
_SUBSET_ROWS = 60_000
_HELD_OUT_ROWS = 2_000
_DECODED_ROWS, _DECODED_VALUES = 2**12, 2**24  # most rows and pixel values decoded at a time


@dataclass(frozen=True, kw_only=True)
class Subset:
    """Uniformly drawn rows, and the latents of the first of them, which candidates are judged by.

    ``sample`` are the rows that components are fitted to. ``latents`` are those of its first rows, and
    ``held_out`` marks those that are not clustered.
    """

    sample: pa.Table
    latents: Int8[np.ndarray, "K N"]
    held_out: Bool[np.ndarray, "K"]


def sample_rows(bits: int, components: int) -> int:
    """The rows that components are fitted to: on average as many per component as there are bits.

    At least 60,000, so that MNIST and CIFAR-10 are fitted whole. For a million digits, samples of a fit to so
    many rows were as near to test images as those of a fit to all rows (docs/measurements.md).
    """
    return max(_SUBSET_ROWS, bits * components)


def subset_of(drawn: DrawnRows, bits: int, components: int) -> Subset:
    """The subset and the sample for this many components, the most that are tried."""
    rows = drawn.first(_SUBSET_ROWS)
    return Subset(
        sample=drawn.first(sample_rows(bits, components)),
        latents=unpack(packed_latents(rows), bits),
        held_out=held_out(rows["key"]),
    )


@dataclass(frozen=True, kw_only=True)
class Partition:
    """A partition of rows into ``count`` components.

    ``partitioner`` maps rows with ``columns`` to components; None if all rows are in one. ``labels`` are the
    components of the sample's rows. ``within`` is the covariance pooled within the components, and
    ``shrinkage`` how far components with few rows shrink toward it.
    """

    count: int
    partitioner: Partitioner | None
    labels: Int64[np.ndarray, "S"]
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

    labels = partitioner(subset.sample)
    judged = labels[: len(subset.latents)]
    known = judged >= 0
    if not (known & ~subset.held_out).any():
        raise UserError(
            f"column {column!r} has a value in {int(known.sum())} of the {len(known)} rows drawn for fitting,"
            " all of them held out: too few for one component per value"
        )
    scored: ScoredPartition = ray.get(
        _try_classes.remote(subset.latents[known], subset.held_out[known], judged[known])
    )
    return Partition(
        count=len(values),
        partitioner=partitioner,
        labels=labels,
        columns=["latent", column],
        within=scored.within,
        shrinkage=scored.shrinkage,
        facts=scored.facts(),
    )


def cluster_partitions(
    table: LatentTables, subset: Subset, codec: Codec, attributes: int, count: int | None, seed: int
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
    points = (
        np.zeros((len(subset.sample), 1), np.float32) if count == 1 else _appearances(codec, subset.sample)
    )
    unseen = subset.latents[subset.held_out][:_HELD_OUT_ROWS]
    known = [ray.put(array) for array in (train, points[: len(subset.latents)][~subset.held_out], unseen)]
    for number in [count] if count else cluster_counts(table, attributes, bool(subset.held_out.any())):
        scored = ray.get(_try_clusters.remote(*known, number, seed))
        yield _appearance_partition(table, codec, scored, points)


def _appearances(codec: Codec, rows: pa.Table) -> Float32[np.ndarray, "S F"]:
    shared, step = ray.put(codec), _decoded_rows(codec)
    chunks = (rows.slice(start, step) for start in range(0, len(rows), step))
    return np.concatenate(ray.get([_appearance.remote(shared, packed_latents(chunk)) for chunk in chunks]))


def _appearance_partition(
    table: LatentTables, codec: Codec, scored: ScoredPartition, points: Float32[np.ndarray, "S F"]
) -> Partition:
    centers = scored.centers
    assert centers is not None
    step = _decoded_rows(codec)

    def partitioner(rows: pa.Table) -> np.ndarray:
        chunks = (rows.slice(start, step) for start in range(0, len(rows), step))
        latents = (unpack(packed_latents(chunk), table.latent_dim) for chunk in chunks)
        return np.concatenate([nearest_center(appearance(codec.decode(z)), centers) for z in latents])

    return Partition(
        count=len(centers),
        partitioner=partitioner if len(centers) > 1 else None,
        labels=nearest_center(points, centers),
        columns=["latent"],
        within=scored.within,
        shrinkage=scored.shrinkage,
        facts=scored.facts(),
    )


def _decoded_rows(codec: Codec) -> int:
    return min(_DECODED_ROWS, max(1, _DECODED_VALUES // math.prod(codec.config.image_shape)))


def cluster_counts(table: LatentTables, attributes: int, can_judge: bool = True) -> list[int]:
    """Numbers of clusters to try, largest first: enough rows per component, and a prior of limited size.

    Only 1 without rows to judge by, because nothing could then tell whether more clusters memorize.
    """
    rows, bits = table.rows, table.latent_dim
    most = min(_BITS_PER_ROW * rows // bits, _MAX_PRIOR_BYTES // (2 * (bits + attributes + 1) ** 2))
    return [number for number in _COMPONENT_COUNTS if number <= max(1, most)] if can_judge else [1]


@ray.remote
def _appearance(codec: Codec, packed: np.ndarray) -> np.ndarray:
    return appearance(codec.decode(unpack(packed, codec.config.latent_dim)))


_try_clusters = ray.remote(try_clusters)


@ray.remote
def _try_classes(latents: np.ndarray, held_out: np.ndarray, labels: np.ndarray) -> ScoredPartition:
    return try_partition(latents[~held_out], labels[~held_out], latents[held_out][:_HELD_OUT_ROWS])
