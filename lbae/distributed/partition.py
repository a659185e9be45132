"""How latents come to components: candidates tried on a subset of the table, one task each, the best by held-out score."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from jaxtyping import Bool, Int8

from lbae.core.mixture import Candidate, nearest_center, try_clusters, try_partition
from lbae.core.packing import unpack
from lbae.distributed.sums import Assign, Run, Scan, by_value, deal
from lbae.errors import UserError
from lbae.io.latent_table import LatentTable, packed_latents
from lbae.io.source import held_out, key_fractions
from lbae.report.progress import ProgressLine

_CANDIDATES = (1, 10, 50, 200)
_MAX_PRIOR_BYTES = 512 * 2**20
_SUBSET_ROWS = 60_000
_HELD_OUT_ROWS = 2_000


@dataclass(frozen=True, kw_only=True)
class Subset:
    """Rows that fit in memory, drawn uniformly, with their latents; ``held`` are those no component is fitted to."""

    rows: pa.Table
    latents: Int8[np.ndarray, "K N"]
    held: Bool[np.ndarray, "K"]


def draw_subset(table: LatentTable, found: Scan, by: str | None) -> Subset:
    """A uniform subset of the rows, the same for any number of tasks."""
    share = min(1.0, _SUBSET_ROWS / found.rows)
    columns = list(dict.fromkeys(["key", "latent", *([by] if by else [])]))
    rows = pa.concat_tables(ray.get([_pick.remote(table, run, columns, share) for run in deal(found.groups)]))
    return Subset(rows=rows, latents=unpack(packed_latents(rows), table.latent_dim), held=held_out(rows["key"]))


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
    tried: list[dict[str, Any]]


def by_class(subset: Subset, found: Scan, by: str) -> Partition:
    """One component a value of a column; rows without a value belong to none."""
    values, assign = by_value(by, found.values[by])
    labels = assign(subset.rows)
    known = labels >= 0
    tried: Candidate = ray.get(_try_classes.remote(subset.latents[known], subset.held[known], labels[known]))
    return Partition(
        count=len(values),
        assign=assign,
        columns=["latent", by],
        within=tried.within,
        shrinkage=tried.shrinkage,
        tried=[tried.facts()],
    )


def clusters(table: LatentTable, subset: Subset, count: int | None, seed: int) -> Partition:
    """The number of clusters asked for, or the one with the best held-out score."""
    known = int((~subset.held).sum())
    if count and count > known:
        raise UserError(f"components is {count}; allowed: 1 to the {known} rows that are not held out of clustering")
    numbers = [count] if count else _numbers(table, subset)
    shared = ray.put(subset.latents)
    with ProgressLine("partitions", len(numbers), "tried") as line:
        running = [_try_clusters.remote(shared, subset.held, number, seed) for number in numbers]
        while (done := len(ray.wait(running, num_returns=len(running), timeout=1)[0])) < len(running):
            line.update(done)
        line.update(done)
    tried: list[Candidate] = ray.get(running)
    best = max(tried, key=lambda candidate: candidate.nats)
    centers = best.centers
    assert centers is not None

    def assign(rows: pa.Table) -> np.ndarray:
        return nearest_center(unpack(packed_latents(rows), table.latent_dim), centers)

    return Partition(
        count=len(centers),
        assign=assign,
        columns=["latent"],
        within=best.within,
        shrinkage=best.shrinkage,
        tried=[candidate.facts() for candidate in tried],
    )


def _numbers(table: LatentTable, subset: Subset) -> list[int]:
    """Numbers of clusters to try: those with as many rows a component as bits, and not too large a bundle."""
    most = min(table.manifest.rows // table.latent_dim, _MAX_PRIOR_BYTES // (2 * (table.latent_dim + 1) ** 2))
    return [number for number in _CANDIDATES if number <= max(1, most)] if subset.held.any() else [1]


@ray.remote
def _try_clusters(latents: np.ndarray, held: np.ndarray, number: int, seed: int) -> Candidate:
    return try_clusters(latents[~held], latents[held][:_HELD_OUT_ROWS], number, seed)


@ray.remote
def _try_classes(latents: np.ndarray, held: np.ndarray, labels: np.ndarray) -> Candidate:
    return try_partition(latents[~held], labels[~held], latents[held][:_HELD_OUT_ROWS])
