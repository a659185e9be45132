"""Fitting a prior: a partition chosen on a subset, grouped moment sums of the whole table, a factor a task, one bundle."""

import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import ray

from lbae.core.attributes import attribute_statistics, joint_moments
from lbae.core.hyperplane import hyperplane_factor
from lbae.core.interpolation import NORMALS_FLOOR
from lbae.core.mixture import Candidate, nearest_center, shrink, try_clusters, try_partition
from lbae.core.moments import MomentSums
from lbae.core.packing import unpack
from lbae.core.prior import Prior, Sampler
from lbae.core.samplers import sampling_factor
from lbae.distributed.session import session
from lbae.distributed.sums import Assign, Run, Scan, Spent, by_value, deal, grouped_sums_of, scan
from lbae.errors import UserError, unknown
from lbae.io import artifact
from lbae.io import bundle as bundle_io
from lbae.io import model as model_io
from lbae.io.artifact import read_manifest
from lbae.io.attributes import Attribute, candidate_columns
from lbae.io.latent_table import LatentTable, open_latent_table, packed_latents
from lbae.io.moments import load_lineage, load_moments
from lbae.io.source import held_out, key_fractions
from lbae.io.storage import absolute, resolve
from lbae.report.progress import ProgressLine

_CANDIDATES = (1, 10, 50, 200)
_MAX_PRIOR_BYTES = 512 * 2**20
_SUBSET_ROWS = 60_000
_HELD_OUT_ROWS = 2_000


def fit(
    *,
    model: str,
    latents: str,
    moments: str,
    out: str,
    components: str = "auto",
    by: str | None = None,
    sampler: Literal["hyperplane", "gaussian"] = "gaussian",
    seed: int = 0,
    overwrite: bool = False,
    address: str | None = None,
) -> dict[str, Any]:
    """Fit the prior and the attribute statistics, and publish them with the model as a bundle.

    Args:
        model: URI of the model artifact.
        latents: URI of the latent table.
        moments: URI of the moment sums.
        out: URI of the bundle.
        components: number of mixture components, or auto to choose it by held-out score.
        by: a class or yes/no column; one component a value instead of clusters.
        sampler: how a component draws latents with its moments.
        seed: seed of the clustering.
        overwrite: replace another artifact at ``out``.
        address: Ray cluster to join; found or started when not given.
    """
    count = _component_count(components, by)
    table, sums, attributes, parents = _inputs(model, latents, moments)
    if count and count > sums.count:
        raise UserError(f"components is {count}; allowed: 1 to the {sums.count} rows of {latents}")
    if by is not None and by not in candidate_columns(table.schema()):
        raise unknown("class column", by, candidate_columns(table.schema()))
    settings = {
        "components": components,
        "by": by,
        "sampler": sampler,
        "seed": seed,
        "precision": table.manifest.result["precision"],
    }
    done = artifact.begin(out, bundle_io.KIND, parents, settings, overwrite)
    if done:
        return done
    started = time.monotonic()
    with session(address):
        pooled_factor = _pooled_factor.remote(sums.moment_matrix)
        found = scan(table, [by] if by else [])
        partition, tried = _by_class(table, found, by) if by else _clusters(table, found, count, seed)
        prior = _prior(table, found, partition, attributes, sampler, str(resolve(out) / "by-component"))
        pooled_factor = ray.get(pooled_factor)
    result = {
        "components": len(prior.weights),
        "sampler": sampler,
        "shrinkage": partition.shrinkage,
        "tried": tried,
        "seconds": round(time.monotonic() - started, 1),
    }
    return bundle_io.save_bundle(
        out,
        model=model,
        prior=prior,
        pooled_factor=pooled_factor,
        attributes=attribute_statistics(sums),
        parents=parents,
        config=settings,
        rows=sums.count,
        result=result,
    )


def _inputs(model: str, latents: str, moments: str) -> tuple[LatentTable, MomentSums, tuple[Attribute, ...], dict[str, str]]:
    """The table, its sums with their attributes, all fingerprints; UserError when they do not belong together."""
    model_manifest = read_manifest(model, model_io.KIND)
    table = open_latent_table(absolute(latents))
    sums, moments_manifest = load_moments(moments)
    model_io.check_model(f"latent table {latents}", table.model_fingerprint, model_manifest)
    model_io.check_model(f"moment sums {moments}", moments_manifest.parents["model"], model_manifest)
    lineage = load_lineage(moments, moments_manifest)
    if list(lineage.tables.values()) != [sums.count] or table.manifest.fingerprint not in lineage.tables:
        raise UserError(
            f"moment sums {moments} are of latents {', '.join(lineage.tables)}, not of {latents} alone"
            f" ({table.manifest.fingerprint}); reduce that table first"
        )
    if sums.count < 2:
        raise UserError(f"{moments} sums {sums.count} row; a prior needs at least 2")
    manifests = {"model": model_manifest, "latents": table.manifest, "moments": moments_manifest}
    return table, sums, lineage.attributes, {name: manifest.fingerprint for name, manifest in manifests.items()}


def _component_count(components: str, by: str | None) -> int | None:
    """The number asked for, None for auto."""
    if components == "auto":
        return None
    if by is not None:
        raise UserError("give --components or --by, not both: --by makes one component a class")
    if not components.isdigit() or int(components) < 1:
        raise UserError(f"components is {components!r}; allowed: auto, or a whole number from 1")
    return int(components)


@dataclass(frozen=True, kw_only=True)
class Partition:
    """How rows come to components, and the pooled covariance with the share of it that a component takes."""

    count: int
    assign: Assign
    columns: list[str]
    within: np.ndarray
    shrinkage: float


def _by_class(table: LatentTable, found: Scan, by: str) -> tuple[Partition, list[dict[str, Any]]]:
    """One component a value of a column; rows without a value belong to none."""
    values, assign = by_value(by, found.values[by])
    subset = _subset(table, found, ["key", "latent", by])
    labels = assign(subset)
    known = labels >= 0
    latents, held = unpack(packed_latents(subset), table.latent_dim)[known], held_out(subset["key"])[known]
    tried: Candidate = ray.get(_try_classes.remote(latents, held, labels[known]))
    partition = Partition(
        count=len(values), assign=assign, columns=["latent", by], within=tried.within, shrinkage=tried.shrinkage
    )
    return partition, [tried.facts()]


def _clusters(table: LatentTable, found: Scan, count: int | None, seed: int) -> tuple[Partition, list[dict[str, Any]]]:
    """The number of clusters asked for, or the one with the best held-out score."""
    subset = _subset(table, found, ["key", "latent"])
    latents, held = unpack(packed_latents(subset), table.latent_dim), held_out(subset["key"])
    numbers = [min(count, int((~held).sum()))] if count else _numbers(table, held)
    shared = ray.put(latents)
    with ProgressLine("partitions", len(numbers), "tried") as line:
        running = [_try_clusters.remote(shared, held, number, seed) for number in numbers]
        while (done := len(ray.wait(running, num_returns=len(running), timeout=1)[0])) < len(running):
            line.update(done)
        line.update(done)
    tried: list[Candidate] = ray.get(running)
    best = max(tried, key=lambda candidate: candidate.nats)
    centers = best.centers
    assert centers is not None

    def assign(rows: pa.Table) -> np.ndarray:
        return nearest_center(unpack(packed_latents(rows), table.latent_dim), centers)

    partition = Partition(
        count=len(centers), assign=assign, columns=["latent"], within=best.within, shrinkage=best.shrinkage
    )
    return partition, [candidate.facts() for candidate in tried]


def _numbers(table: LatentTable, held: np.ndarray) -> list[int]:
    """Numbers of clusters to try: those with as many rows a component as bits, and not too large a bundle."""
    most = min(table.manifest.rows // table.latent_dim, _MAX_PRIOR_BYTES // (2 * (table.latent_dim + 1) ** 2))
    return [number for number in _CANDIDATES if number <= max(1, most)] if held.any() else [1]


@ray.remote
def _try_clusters(latents: np.ndarray, held: np.ndarray, number: int, seed: int) -> Candidate:
    return try_clusters(latents[~held], latents[held][:_HELD_OUT_ROWS], number, seed)


@ray.remote
def _try_classes(latents: np.ndarray, held: np.ndarray, labels: np.ndarray) -> Candidate:
    return try_partition(latents[~held], labels[~held], latents[held][:_HELD_OUT_ROWS])


def _subset(table: LatentTable, found: Scan, columns: list[str]) -> pa.Table:
    """A uniform subset of the rows that fits in memory, the same for any number of tasks."""
    share = min(1.0, _SUBSET_ROWS / found.rows)
    return pa.concat_tables(ray.get([_pick.remote(table, run, columns, share) for run in deal(found.groups)]))


@ray.remote
def _pick(table: LatentTable, run: Run, columns: list[str], share: float) -> pa.Table:
    batches = table.batches(run, columns)
    if share == 1:
        return pa.concat_tables(batches)
    return pa.concat_tables(rows.filter(pa.array(key_fractions(rows["key"]) < share)) for rows in batches)


def _prior(
    table: LatentTable,
    found: Scan,
    partition: Partition,
    attributes: tuple[Attribute, ...],
    sampler: Sampler,
    scratch: str,
) -> Prior:
    """Moment sums a component, then a factor a component: each is one task, and only factors come back here."""
    weights: dict[int, Any] = {}
    factors: dict[int, Any] = {}
    within = ray.put(partition.within)
    with ProgressLine("fit", partition.count, "components") as line:
        columns = list(dict.fromkeys([*partition.columns, *(attribute.column for attribute in attributes)]))
        sums_of = grouped_sums_of(
            table, found.groups, partition.assign, partition.count, columns, attributes, scratch, Spent()
        )
        for component, sums in sums_of:
            weights[component], factors[component] = _component.remote(sums, sampler, within, partition.shrinkage)
        resolve(scratch).remove()
        for done in range(1, partition.count + 1):
            ray.wait(list(weights.values()), num_returns=done)
            line.update(done)
    used = [component for component in sorted(weights) if ray.get(weights[component])]
    share = np.array([ray.get(weights[component]) for component in used], dtype=np.float64)
    stacked = np.stack(ray.get([factors[component] for component in used]))
    names = tuple(attribute.name for attribute in attributes)
    return Prior(sampler=sampler, weights=share / share.sum(), factors=stacked, attributes=names)


@ray.remote(num_returns=2)
def _component(sums: MomentSums, sampler: Sampler, within: np.ndarray, shrinkage: float) -> tuple[int, np.ndarray | None]:
    """Rows and factor of a component; no factor for one without rows. One with fewer rows than bits is shrunk."""
    if not sums.count:
        return 0, None
    mean, second = joint_moments(sums)
    if sums.count < sums.latent_dim:
        bits = slice(len(sums.attributes), None)
        second[bits, bits] = shrink(sums.mean, sums.second, within, shrinkage)
    return sums.count, sampling_factor(sampler, mean, second, sums.count).astype(np.float32)


@ray.remote
def _pooled_factor(matrix: np.ndarray) -> np.ndarray:
    return hyperplane_factor(matrix, NORMALS_FLOOR)
