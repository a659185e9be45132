"""Fitting a prior: clusters on a subset, grouped moment sums over the whole table, one factor a task, one bundle."""

import time
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from lbae.core.attributes import attribute_statistics
from lbae.core.hyperplane import SAMPLING_FLOOR, HyperplanePrior, hyperplane_factor
from lbae.core.interpolation import NORMALS_FLOOR
from lbae.core.mixture import Candidate, choose_components, cluster_centers, nearest_center
from lbae.core.moments import MomentSums
from lbae.core.packing import unpack
from lbae.distributed.session import session
from lbae.distributed.sums import Assign, Spent, grouped_sums_of, scan
from lbae.errors import UserError, unknown
from lbae.io import artifact
from lbae.io import bundle as bundle_io
from lbae.io import model as model_io
from lbae.io.artifact import read_manifest
from lbae.io.attributes import candidate_columns
from lbae.io.latent_table import LatentTable, open_latent_table, packed_latents
from lbae.io.moments import load_moments
from lbae.io.source import held_out
from lbae.io.storage import absolute, resolve
from lbae.report.progress import ProgressLine

_CANDIDATES = (1, 10, 50, 200)
_MAX_PRIOR_BYTES = 512 * 2**20
_SUBSET = 20_000


def fit(
    *,
    model: str,
    latents: str,
    moments: str,
    out: str,
    components: str = "auto",
    by: str | None = None,
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
        by: a class column; one component a class instead of clusters.
        seed: seed of the clustering.
        overwrite: replace another artifact at ``out``.
        address: Ray cluster to join; found or started when not given.
    """
    count = _component_count(components, by)
    table, sums, parents = _inputs(model, latents, moments)
    if count and count > sums.count:
        raise UserError(f"components is {count}; allowed: 1 to the {sums.count} rows of {latents}")
    if by is not None and by not in candidate_columns(table.schema()):
        raise unknown("class column", by, candidate_columns(table.schema()))
    settings = {"components": components, "by": by, "seed": seed, "precision": table.manifest.result["precision"]}
    done = artifact.begin(out, bundle_io.KIND, parents, settings, overwrite)
    if done:
        return done
    started = time.monotonic()
    with session(address):
        pooled_factor = _factor.remote(sums.moment_matrix)
        groups, assign, scores = _partition(table, count, by, seed)
        columns = ["latent"] if by is None else ["latent", by]
        prior = _prior(table, assign, groups, columns, str(resolve(out) / "by-component"))
        pooled_factor = ray.get(pooled_factor)
    result = {
        "components": len(prior.weights),
        "scores": [{"components": s.components, "held_out_nats": round(s.score, 3)} for s in scores],
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


def _inputs(model: str, latents: str, moments: str) -> tuple[LatentTable, MomentSums, dict[str, str]]:
    """The table, its sums and all fingerprints; UserError when they do not belong together."""
    model_manifest = read_manifest(model, model_io.KIND)
    table = open_latent_table(absolute(latents))
    sums, moments_manifest = load_moments(moments)
    model_io.check_model(f"latent table {latents}", table.model_fingerprint, model_manifest)
    model_io.check_model(f"moment sums {moments}", moments_manifest.parents["model"], model_manifest)
    summed = moments_manifest.parents.get("latents", "of several tables")
    if summed != table.manifest.fingerprint:
        raise UserError(
            f"moment sums {moments} are of latents {summed}, not of {latents} ({table.manifest.fingerprint});"
            " reduce that table first"
        )
    if sums.count < 2:
        raise UserError(f"{moments} sums {sums.count} row; a prior needs at least 2")
    manifests = {"model": model_manifest, "latents": table.manifest, "moments": moments_manifest}
    return table, sums, {name: manifest.fingerprint for name, manifest in manifests.items()}


def _component_count(components: str, by: str | None) -> int | None:
    """The number asked for, None for auto."""
    if components == "auto":
        return None
    if by is not None:
        raise UserError("give --components or --by, not both: --by makes one component a class")
    if not components.isdigit() or int(components) < 1:
        raise UserError(f"components is {components!r}; allowed: auto, or a whole number from 1")
    return int(components)


def _partition(table: LatentTable, count: int | None, by: str | None, seed: int) -> tuple[int, Assign, list[Candidate]]:
    """How many components, the function that finds the component of every row, and the scores it was chosen by."""
    if by is not None:
        values = sorted({v for part in table.parts for v in table.read(part, [by])[by].to_pylist() if v is not None})
        index = {value: i for i, value in enumerate(values)}
        # Rows without a value belong to no component.
        return len(values), lambda rows: np.array([index.get(v, -1) for v in rows[by].to_pylist()], dtype=np.int64), []
    if count == 1:
        return 1, lambda rows: np.zeros(len(rows), dtype=np.int64), []
    latents, keys = _subset(table, seed)
    scores: list[Candidate] = []
    if count is None:
        # A component's moments need as many rows as it has bits, or its samples repeat its few rows.
        limit = min(table.manifest.rows // table.latent_dim, _MAX_PRIOR_BYTES // (2 * (table.latent_dim + 1) ** 2))
        held = held_out(keys)
        scores = choose_components(latents, held, [c for c in _CANDIDATES if c <= max(1, limit)], seed) if held.any() else []
        count = scores[0].components if scores else 1
    centers = cluster_centers(latents, min(count, len(latents)), seed)
    return len(centers), lambda rows: nearest_center(unpack(packed_latents(rows), table.latent_dim), centers), scores


def _subset(table: LatentTable, seed: int) -> tuple[np.ndarray, pa.ChunkedArray]:
    """A uniform subset of the latents that fits in memory, with its keys."""
    share = min(1.0, _SUBSET / table.manifest.rows)
    rng = np.random.default_rng(seed)
    picked = []
    for part in table.parts:
        rows = table.read(part, ["key", "latent"])
        picked.append(rows.filter(rng.random(len(rows)) < share) if share < 1 else rows)
    subset = pa.concat_tables(picked)
    return unpack(packed_latents(subset), table.latent_dim), subset["key"]


def _prior(table: LatentTable, assign: Assign, components: int, columns: list[str], scratch: str) -> HyperplanePrior:
    """Moment sums a component, then a factor a component: each is one task, and only factors come back here."""
    weights: dict[int, Any] = {}
    factors: dict[int, Any] = {}
    groups = scan(table, []).groups
    with ProgressLine("fit", components, "components") as line:
        sums_of = grouped_sums_of(table, groups, assign, components, columns, (), scratch, Spent())
        for done, (component, sums) in enumerate(sums_of, start=1):
            weights[component], factors[component] = _component.remote(sums)
            line.update(done)
        resolve(scratch).remove()
        found = [(weight, factors[c]) for c in sorted(weights) if (weight := ray.get(weights[c]))]
    share = np.array([weight for weight, _ in found], dtype=np.float64)
    return HyperplanePrior(weights=share / share.sum(), factors=np.stack(ray.get([factor for _, factor in found])))


@ray.remote(num_returns=2)
def _component(sums: MomentSums) -> tuple[int, np.ndarray | None]:
    """Rows and factor of a component; no factor for one without rows."""
    factor = hyperplane_factor(sums.moment_matrix, SAMPLING_FLOOR).astype(np.float32) if sums.count else None
    return sums.count, factor


@ray.remote
def _factor(matrix: np.ndarray) -> np.ndarray:
    return hyperplane_factor(matrix, NORMALS_FLOOR)
