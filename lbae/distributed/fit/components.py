"""Fitting a prior: a partition learned on a subset, grouped moment sums of the whole table, a factor a task, one bundle."""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import ray

from lbae.config import ModelConfig
from lbae.core.latents.attribute_statistics import attribute_statistics, known_mean
from lbae.core.latents.normals import pooled_factor
from lbae.core.moments.moment_sums import MomentSums
from lbae.core.prior.component import fit_component
from lbae.core.prior.fidelity import covariance, expected_moments, moment_errors
from lbae.core.prior.memory import QUERIES, nearest_facts, remembers
from lbae.core.prior.prior import Prior, Sampler
from lbae.core.prior.samplers import fit as fit_one
from lbae.distributed.cluster.session import session
from lbae.distributed.cluster.storage_check import reached
from lbae.distributed.fit.partition import Partition, Subset, by_class, clusters, draw_subset
from lbae.distributed.latents.scan import Scan, scan
from lbae.distributed.latents.sum_tasks import Spent, grouped_sums_of
from lbae.errors import UserError, unknown
from lbae.io.artifacts import bundle_artifact as bundle_io
from lbae.io.artifacts import model_artifact as model_io
from lbae.io.artifacts import output as artifact
from lbae.io.artifacts.attribute_columns import Attribute, candidate_columns
from lbae.io.artifacts.latent_table import LatentTable, open_latent_table
from lbae.io.artifacts.moments_artifact import load_lineage, load_moments
from lbae.io.artifacts.output import read_manifest
from lbae.io.sources.plan import plan
from lbae.io.storage.location import absolute, resolve
from lbae.io.storage.lock import locked
from lbae.report.figures.pictures import load_images
from lbae.report.figures.plots import covariances, marginals
from lbae.report.progress import ProgressLine

_SHOWN: tuple[Sampler, ...] = ("hyperplane", "direct")  # beside the prior in the figures, as in slide 16

Moments = tuple[np.ndarray, np.ndarray]


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
    examples: int = 0,
    overwrite: bool = False,
    address: str | None = None,
) -> dict[str, Any]:
    """Fit the prior and the attribute statistics, and publish them with the model as a bundle.

    Args:
        model: URI of the model artifact.
        latents: URI of the latent table.
        moments: URI of the moment sums.
        out: URI of the bundle.
        components: number of mixture components, or auto for as many as rows allow and do not remember training latents.
        by: a class or yes/no column; one component a value instead of clusters.
        sampler: how a component draws latents with its moments.
        seed: seed of the clustering.
        examples: images of the latents' source that the bundle is to hold, for people to try it on; mind their licence.
        overwrite: replace another artifact at ``out``.
        address: Ray cluster to join; found or started when not given.
    """
    if seed < 0:
        raise UserError(f"seed is {seed}; allowed: 0 or more")
    count = _component_count(components, by)
    table, sums, attributes, parents = _inputs(model, latents, moments)
    if count and count > sums.count:
        raise UserError(f"components is {count}; allowed: 1 to the {sums.count} rows of {latents}")
    if by is not None and by not in candidate_columns(table.schema()):
        raise unknown("class column", by, candidate_columns(table.schema()))
    settings: dict[str, Any] = {
        "components": components,
        "by": by,
        "sampler": sampler,
        "seed": seed,
        "precision": table.manifest.result["precision"],
    }
    if examples:
        settings["examples"] = examples
    codec = model_io.load_model(model, device="cpu")
    images = _examples(table, codec.config, examples)
    with locked(out):
        place = (out, bundle_io.KIND, parents, settings, overwrite, [model, latents, moments])
        if done := artifact.finished(*place):
            return done
        started = time.monotonic()
        with session(address):
            reached([latents], [out])
            artifact.begin(*place)
            pooled = ray.remote(pooled_factor).remote(sums)
            alone = {name: _one_component.remote(name, sums) for name in _SHOWN}
            found = scan(table, [by] if by else [])
            subset = draw_subset(table, found, by)
            partitions = (
                [by_class(subset, found, by)] if by else clusters(table, subset, codec, len(attributes), count, seed)
            )
            scratch = str(resolve(out) / "by-component")
            fitted, tried = _choose(table, found, subset, partitions, attributes, known_mean(sums), sampler, scratch)
            drawn = {f"{sampler}, {len(fitted.prior.weights)} components": fitted.moments}
            drawn |= {f"{name}, 1 component": ray.get(task) for name, task in alone.items()}
            pooled = ray.get(pooled)
        fidelity = {name: moment_errors(*of, sums.mean, sums.second) for name, of in drawn.items()}
        result = {
            "components": len(fitted.prior.weights),
            "sampler": sampler,
            "constant_bits": int((np.abs(sums.mean) == 1).sum()),
            "tried": tried,
            "fidelity": fidelity,
            "seconds": round(time.monotonic() - started, 1),
        }
        return bundle_io.save_bundle(
            out,
            model=model,
            prior=fitted.prior,
            pooled_factor=pooled,
            attributes=attribute_statistics(sums),
            examples=images,
            parents=parents,
            config=settings,
            rows=sums.count,
            result=result,
            report=_report(sums, drawn, {"overall": fidelity, "tried": tried, "components": fitted.facts}),
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


def _examples(table: LatentTable, config: ModelConfig, count: int) -> np.ndarray:
    """The first images of what the latents were encoded from."""
    if count < 0:
        raise UserError(f"examples is {count}; allowed: 0 or more")
    if not count:
        return np.empty((0, *config.image_shape), dtype=np.uint8)
    return load_images(config, plan(table.made_from("data")), count)


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
class _Fitted:
    """A prior, the facts of every component, and [E[y]; E[y yT]] of the prior's latents."""

    prior: Prior
    facts: list[dict[str, Any]]
    moments: Moments


def _choose(
    table: LatentTable,
    found: Scan,
    subset: Subset,
    partitions: Iterable[Partition],
    attributes: tuple[Attribute, ...],
    elsewhere: np.ndarray,
    sampler: Sampler,
    scratch: str,
) -> tuple[_Fitted, list[dict[str, Any]]]:
    """The first prior that does not remember training latents, or the last there is; facts about all that were fitted."""
    known, unseen = subset.latents[~subset.held], subset.latents[subset.held]
    held_out = nearest_facts(unseen, known) if len(unseen) else None
    tried = []
    for partition in partitions:
        fitted = _fit_components(table, found, partition, attributes, elsewhere, sampler, scratch)
        drawn = nearest_facts(fitted.prior.sample(QUERIES, 0), known)
        nearer = held_out is not None and remembers(drawn, held_out)
        tried.append({**partition.facts, "nearest": drawn, "nearest_held_out": held_out, "remembers": nearer})
        if not nearer:
            break
    return fitted, tried


def _fit_components(
    table: LatentTable,
    found: Scan,
    partition: Partition,
    attributes: tuple[Attribute, ...],
    elsewhere: np.ndarray,
    sampler: Sampler,
    scratch: str,
) -> _Fitted:
    """Moment sums a component, then a factor a component: each is one task, and only factors come back here."""
    tasks: dict[int, Any] = {}
    settings = sampler, ray.put(partition.within), partition.shrinkage, elsewhere
    with ProgressLine("fit", partition.count, "components") as line:
        columns = list(dict.fromkeys([*partition.columns, *(attribute.column for attribute in attributes)]))
        sums_of = grouped_sums_of(
            table, found.groups, partition.assign, partition.count, columns, attributes, scratch, Spent()
        )
        for component, sums in sums_of:
            tasks[component] = _component.remote(sums, *settings)
        resolve(scratch).remove()
        facts, factors, moments = [], [], np.zeros((table.latent_dim + 1, table.latent_dim))
        for done, component in enumerate(sorted(tasks), 1):
            if fitted := ray.get(tasks.pop(component)):
                facts.append({"component": component, **fitted[0]})
                factors.append(fitted[1])
                moments += fitted[0]["rows"] * fitted[2]
            line.update(done)
    share = np.array([of_component["rows"] for of_component in facts], dtype=np.float64)
    names = tuple(attribute.name for attribute in attributes)
    prior = Prior(sampler=sampler, weights=share / share.sum(), factors=np.stack(factors), attributes=names)
    return _Fitted(prior=prior, facts=facts, moments=(moments[0] / share.sum(), moments[1:] / share.sum()))


@ray.remote
def _component(sums: MomentSums, *settings: Any) -> tuple[dict[str, Any], np.ndarray, np.ndarray] | None:
    """What :func:`fit_component` gives; None for a component without rows."""
    return fit_component(sums, *settings) if sums.count else None


@ray.remote
def _one_component(sampler: Sampler, sums: MomentSums) -> Moments:
    return expected_moments(fit_one(sampler, sums))


def _report(sums: MomentSums, drawn: dict[str, Moments], facts: dict[str, Any]) -> dict[str, bytes]:
    """Files about the prior: every figure, and slide 16's two pictures of the training latents against what is drawn."""
    return {
        "fidelity.json": json.dumps(facts, indent=1).encode(),
        "marginals.png": marginals(sums.mean, {name: mean for name, (mean, _) in drawn.items()}),
        "covariances.png": covariances(
            covariance(sums.mean, sums.second), {name: covariance(*of) for name, of in drawn.items()}
        ),
    }
