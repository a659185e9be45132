"""Fit a prior to the moments and publish it with the model as a bundle."""

import json
import time
from typing import Any, Literal

import numpy as np
import ray

from lbae.config import ModelConfig
from lbae.core.latents.attribute_statistics import attribute_statistics, known_mean
from lbae.core.latents.normals import pooled_factor
from lbae.core.moments.moment_sums import MomentSums
from lbae.core.prior.fidelity import covariance, moment_errors
from lbae.core.prior.prior import Sampler
from lbae.distributed.cluster.session import session
from lbae.distributed.cluster.storage_check import check_storage
from lbae.distributed.fit.components import Moments, choose_prior, one_component
from lbae.distributed.fit.partition import by_class, clusters, draw_subset
from lbae.distributed.latents.scan import scan
from lbae.errors import UserError, unknown
from lbae.io.artifacts import bundle_artifact as bundle_io
from lbae.io.artifacts import model_artifact as model_io
from lbae.io.artifacts.attribute_columns import Attribute, candidate_columns
from lbae.io.artifacts.latent_table import LatentTable, open_latent_table
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.artifacts.moments_artifact import load_lineage, load_moments
from lbae.io.artifacts.output import Output
from lbae.io.sources.plan import plan
from lbae.io.storage.location import absolute, resolve
from lbae.io.storage.lock import locked
from lbae.jobs.options import Address, Overwrite
from lbae.report.figures.pictures import load_images
from lbae.report.figures.plots import covariances, marginals

_SHOWN: tuple[Sampler, ...] = ("hyperplane", "direct")  # beside the prior in the figures, as in slide 16


def fit(
    *,
    model: str,
    latents: str,
    moments: str,
    out: str,
    components: int | Literal["auto"] = "auto",
    by: str | None = None,
    sampler: Literal["hyperplane", "gaussian"] = "gaussian",
    seed: int = 0,
    examples: int = 0,
    overwrite: Overwrite = False,
    address: Address = None,
) -> dict[str, Any]:
    """Fit the prior and the attribute statistics, and publish them with the model as a bundle.

    Args:
        model: URI of the model artifact.
        latents: URI of the latent table.
        moments: URI of the moment sums.
        out: URI of the bundle.
        components: number of mixture components; auto takes as many as the rows allow without memorising
            training latents.
        by: class or yes/no column; one component per value instead of clusters.
        sampler: how a component draws latents with its moments.
        seed: seed of the clustering.
        examples: number of source images to store in the bundle, to try it on; mind their licence.
    """
    if seed < 0:
        raise UserError(f"seed is {seed}; allowed: 0 or more")
    count = _component_count(str(components), by)
    table, sums, attributes, parents = _inputs(model, latents, moments)
    if count and count > sums.count:
        raise UserError(f"components is {count}; allowed: 1 to the {sums.count} rows of {latents}")
    if by is not None and by not in candidate_columns(table.schema()):
        raise unknown("class column", by, candidate_columns(table.schema()))
    settings: dict[str, Any] = {
        "components": str(components),
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
        inputs = [model, latents, moments]
        output = Output(
            out, bundle_io.KIND, parents=parents, config=settings, inputs=inputs, overwrite=overwrite
        )
        if done := output.existing():
            return done
        started = time.monotonic()
        with session(address):
            check_storage([latents], [out])
            output.begin()
            pooled = ray.remote(pooled_factor).remote(sums)
            alone = {name: one_component.remote(name, sums) for name in _SHOWN}
            found = scan(table, [by] if by else [])
            subset = draw_subset(table, found, by)
            partitions = (
                [by_class(subset, found, by)]
                if by
                else clusters(table, subset, codec, len(attributes), count, seed)
            )
            scratch = str(resolve(out) / "by-component")
            fitted, tried = choose_prior(
                table, found, subset, partitions, attributes, known_mean(sums), sampler, scratch
            )
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
            output,
            model=model,
            prior=fitted.prior,
            pooled_factor=pooled,
            attributes=attribute_statistics(sums),
            examples=images,
            rows=sums.count,
            result=result,
            report=_report(sums, drawn, {"overall": fidelity, "tried": tried, "components": fitted.facts}),
        )


def _inputs(
    model: str, latents: str, moments: str
) -> tuple[LatentTable, MomentSums, tuple[Attribute, ...], dict[str, str]]:
    """The table, its sums with their attributes, all fingerprints; UserError when they do not belong
    together.
    """
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
    return (
        table,
        sums,
        lineage.attributes,
        {name: manifest.fingerprint for name, manifest in manifests.items()},
    )


def _examples(table: LatentTable, config: ModelConfig, count: int) -> np.ndarray:
    """The first images of what the latents were encoded from."""
    if count < 0:
        raise UserError(f"examples is {count}; allowed: 0 or more")
    if not count:
        return np.empty((0, *config.image_shape), dtype=np.uint8)
    return load_images(config, plan(table.made_from("data")), count)[0]


def _component_count(components: str, by: str | None) -> int | None:
    """The number asked for, None for auto."""
    if components == "auto":
        return None
    if by is not None:
        raise UserError("give --components or --by, not both: --by makes one component a class")
    if not components.isdigit() or int(components) < 1:
        raise UserError(f"components is {components!r}; allowed: auto, or a whole number from 1")
    return int(components)


def _report(sums: MomentSums, drawn: dict[str, Moments], facts: dict[str, Any]) -> dict[str, bytes]:
    """Files about the prior: every figure, and slide 16's two pictures of the training latents against what
    is drawn.
    """
    return {
        "fidelity.json": json.dumps(facts, indent=1).encode(),
        "marginals.png": marginals(sums.mean, {name: mean for name, (mean, _) in drawn.items()}),
        "covariances.png": covariances(
            covariance(sums.mean, sums.second), {name: covariance(*of) for name, of in drawn.items()}
        ),
    }
