"""How latents come to components: by a column, or by what their images look like, learned on a subset of the
table.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from jaxtyping import Bool, Int8

from lbae.core.latents.packing import unpack
from lbae.core.network.codec import Codec
from lbae.core.prior.appearance import appearance
from lbae.core.prior.mixture import Candidate, nearest_center, try_clusters, try_partition
from lbae.distributed.latents.scan import Scan
from lbae.distributed.latents.sum_tasks import Assign, Run, by_value, deal
from lbae.errors import UserError
from lbae.io.artifacts.latent_table import LatentTable, packed_latents
from lbae.io.sources.source import held_out, key_fractions

_CANDIDATES = (200, 50, 10, 1)
_ROWS_A_BIT = 3  # a component has at least N / 3 rows on average
_MAX_PRIOR_BYTES = 512 * 2**20
_SUBSET_ROWS = 60_000
_HELD_OUT_ROWS = 2_000
_LOOK_ROWS, _LOOK_VALUES = 2**12, 2**24  # images decoded at a time at most, and their pixels' channels


@dataclass(frozen=True, kw_only=True)
class Subset:
    """Rows that fit in memory, drawn uniformly, with their latents; ``held`` are those no component is fitted
    to.
    """

    rows: pa.Table
    latents: Int8[np.ndarray, "K N"]
    held: Bool[np.ndarray, "K"]


def draw_subset(table: LatentTable, found: Scan, by: str | None) -> Subset:
    """A uniform subset of the rows, the same for any number of tasks and, as tables may be sorted by class,
    any order.
    """
    share = min(1.0, _SUBSET_ROWS / found.rows)
    columns = ["key", "latent", *([by] if by else [])]
    rows = pa.concat_tables(ray.get([_pick.remote(table, run, columns, share) for run in deal(found.groups)]))
    rows = rows.take(np.argsort(key_fractions(rows["key"]), kind="stable"))
    return Subset(
        rows=rows, latents=unpack(packed_latents(rows), table.latent_dim), held=held_out(rows["key"])
    )


@ray.remote
def _pick(table: LatentTable, run: Run, columns: list[str], share: float) -> pa.Table:
    batches = table.batches(run, columns)
    if share == 1:
        return pa.concat_tables(batches)
    return pa.concat_tables(rows.filter(pa.array(key_fractions(rows["key"]) < share)) for rows in batches)


@dataclass(frozen=True, kw_only=True)
class Partition:
    """How rows come to components, and the pooled covariance with the share of it that a component takes."""

    count: int
    assign: Assign
    columns: list[str]
    within: np.ndarray
    shrinkage: float
    facts: dict[str, Any]


def by_class(subset: Subset, found: Scan, by: str) -> Partition:
    """One component a value of a column; rows without a value belong to none."""
    values, assign = by_value(by, found.values[by])
    labels = assign(subset.rows)
    known = labels >= 0
    if not (known & ~subset.held).any():
        raise UserError(
            f"column {by!r} is known for {int(known.sum())} of the {len(known)} rows that were drawn to"
            f" learn from, all of"
            " them held out: too few for one component a value"
        )
    tried: Candidate = ray.get(_try_classes.remote(subset.latents[known], subset.held[known], labels[known]))
    return Partition(
        count=len(values),
        assign=assign,
        columns=["latent", by],
        within=tried.within,
        shrinkage=tried.shrinkage,
        facts=tried.facts(),
    )


def clusters(
    table: LatentTable, subset: Subset, codec: Codec, attributes: int, count: int | None, seed: int
) -> Iterator[Partition]:
    """The number of clusters asked for; else the most that rows and bundle size allow, then fewer, as far as
    one goes on.
    """
    train = subset.latents[~subset.held]
    if count and count > len(train):
        raise UserError(
            f"components is {count}; allowed: 1 to the {len(train)} rows that are not held out of clustering"
        )
    if not len(train):
        raise UserError(f"all {len(subset.held)} rows are held out of clustering; give a table of more rows")
    shared, step = ray.put(codec), _look_rows(codec)
    looks = ray.get([_look.remote(shared, train[i : i + step]) for i in range(0, len(train), step)])
    known = [
        ray.put(array)
        for array in (train, np.concatenate(looks), subset.latents[subset.held][:_HELD_OUT_ROWS])
    ]
    for number in [count] if count else _numbers(table, subset, attributes):
        yield _by_looks(table, codec, ray.get(_try_clusters.remote(*known, number, seed)))


def _by_looks(table: LatentTable, codec: Codec, candidate: Candidate) -> Partition:
    centers = candidate.centers
    assert centers is not None
    step = _look_rows(codec)

    def assign(rows: pa.Table) -> np.ndarray:
        if len(centers) == 1:  # of which no image need be decoded
            return np.zeros(len(rows), dtype=np.int64)
        chunks = (rows.slice(start, step) for start in range(0, len(rows), step))
        latents = (unpack(packed_latents(chunk), table.latent_dim) for chunk in chunks)
        return np.concatenate([nearest_center(appearance(codec.decode(z)), centers) for z in latents])

    return Partition(
        count=len(centers),
        assign=assign,
        columns=["latent"],
        within=candidate.within,
        shrinkage=candidate.shrinkage,
        facts=candidate.facts(),
    )


def _look_rows(codec: Codec) -> int:
    return min(_LOOK_ROWS, max(1, _LOOK_VALUES // math.prod(codec.config.image_shape)))


def _numbers(table: LatentTable, subset: Subset, attributes: int) -> list[int]:
    """Numbers of clusters to try, most first: with enough rows a component, in a bundle that is not too
    large.

    One, where no rows are held out that say whether more would remember.
    """
    rows, bits = table.manifest.rows, table.latent_dim
    most = min(_ROWS_A_BIT * rows // bits, _MAX_PRIOR_BYTES // (2 * (bits + attributes + 1) ** 2))
    return [number for number in _CANDIDATES if number <= max(1, most)] if subset.held.any() else [1]


@ray.remote
def _look(codec: Codec, latents: np.ndarray) -> np.ndarray:
    return appearance(codec.decode(latents))


_try_clusters = ray.remote(try_clusters)


@ray.remote
def _try_classes(latents: np.ndarray, held: np.ndarray, labels: np.ndarray) -> Candidate:
    return try_partition(latents[~held], labels[~held], latents[held][:_HELD_OUT_ROWS])
