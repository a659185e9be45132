"""Fit latent tables on Ray: the prior, baselines to compare it with, the pooled factor, value models."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from lbae.core.latents.edited_moments import Errors
from lbae.core.latents.normals import pooled_factor
from lbae.core.latents.value_models import ValueModels
from lbae.core.moments.moment_sums import MomentSums
from lbae.core.network.codec import Codec
from lbae.core.prior.prior import Sampler
from lbae.distributed.fit.partition import (
    Partition,
    cluster_counts,
    cluster_partitions,
    column_partition,
    sample_rows,
    subset_of,
)
from lbae.distributed.fit.prior_fitter import (
    FittedPrior,
    Moments,
    PriorFitter,
    single_gaussian_moments,
)
from lbae.distributed.fit.value_models_fit import VALUE_ROWS, fit_value_models
from lbae.distributed.latent_table.drawn_rows import draw_rows
from lbae.distributed.latent_table.table_scan import scan
from lbae.errors import UserError
from lbae.io.artifacts import model_artifact
from lbae.io.artifacts.attribute_columns import MAX_CLASSES, Attribute
from lbae.io.artifacts.latent_tables import LatentTables, open_latent_tables
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.artifacts.moments_artifact import load_lineage, load_moments

_BASELINES: tuple[Sampler, ...] = ("hyperplane", "direct")  # compared with the prior, as in slide 16


@dataclass(frozen=True, kw_only=True)
class FitInputs:
    """Latent tables, their moment sums and these sums' attributes, and the fingerprints of all inputs."""

    table: LatentTables
    sums: MomentSums
    attributes: tuple[Attribute, ...]
    parents: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How to fit a prior.

    Components come from the column ``by``, or from clustering into ``components`` (None chooses the number).
    They are fitted to a sample of the rows, or with ``exact`` to all of them.
    """

    components: int | None
    by: str | None
    sampler: Sampler
    seed: int
    exact: bool


@dataclass(frozen=True, kw_only=True)
class TableFit:
    """The fitted prior, the pooled factor, and the value models of the attributes.

    ``tried`` has facts about every prior that was tried, ``moments`` the expected moments of the prior and of
    the baselines, by name. ``edited`` has the errors of the moments of edited latents, by attribute value.
    """

    fitted: FittedPrior
    tried: list[dict[str, Any]]
    moments: dict[str, Moments]
    pooled_factor: np.ndarray
    values: ValueModels
    edited: dict[str, Errors]


def read_fit_inputs(model: str, latents: str | Sequence[str], moments: str) -> FitInputs:
    """Open the inputs; UserError unless they belong together."""
    model_manifest = read_manifest(model, model_artifact.KIND)
    table = open_latent_tables(latents)
    sums, moments_manifest = load_moments(moments)
    model_artifact.check_model(f"latent table {table}", table.model_fingerprint, model_manifest)
    model_artifact.check_model(f"moment sums {moments}", moments_manifest.parents["model"], model_manifest)
    lineage = load_lineage(moments, moments_manifest)
    if lineage.tables != table.rows_of_tables or sums.count != table.rows:
        raise UserError(
            f"moment sums {moments} cover latent tables with the fingerprints and rows"
            f" {_listed(lineage.tables)}; --latents gives {table}, with {_listed(table.rows_of_tables)}: give"
            f" each table that was summed, and no other, or reduce these tables"
        )
    if twice := sum(times != 1 for times in lineage.parts.values()):
        raise UserError(
            f"moment sums {moments} count the rows of {twice} part files more than once, because the tables"
            f" {table} share them; leave out a table that another one continues"
        )
    if sums.count < 2:
        raise UserError(f"rows in moment sums {moments}: {sums.count}; a prior needs at least 2")
    return FitInputs(
        table=table,
        sums=sums,
        attributes=lineage.attributes,
        parents={
            "model": model_manifest.fingerprint,
            "latents": table.fingerprint,
            "moments": moments_manifest.fingerprint,
        },
    )


def _listed(tables: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({rows})" for name, rows in sorted(tables.items())) or "none"


def fit_table(inputs: FitInputs, codec: Codec, settings: FitSettings, scratch: str) -> TableFit:
    """Fit the prior of the tables.

    Args:
        inputs: the tables and their moment sums.
        codec: decodes latents into the images that are clustered.
        settings: the components to fit.
        scratch: URI of a folder for a copy of the rows, grouped by component, of an exact fit.
    """
    table, sums, by = inputs.table, inputs.sums, settings.by
    pooled = ray.remote(pooled_factor).remote(sums)
    baselines = {name: single_gaussian_moments.remote(name, sums) for name in _BASELINES}
    found = scan(table, [by] if by else [])
    most = settings.components or cluster_counts(table, len(inputs.attributes))[0]
    if by:
        most = min(len(found.values[by]), MAX_CLASSES)
    columns = dict.fromkeys(["key", "latent", *([by] if by else []), *(a.column for a in inputs.attributes)])
    rows = max(VALUE_ROWS, sample_rows(table.latent_dim, most))
    drawn = draw_rows(table, found, list(columns), rows)
    subset = subset_of(drawn, table.latent_dim, most)
    if by:
        partitions: Iterable[Partition] = [column_partition(subset, found, by)]
    else:
        partitions = cluster_partitions(
            table, subset, codec, len(inputs.attributes), settings.components, settings.seed
        )
    fitter = PriorFitter(
        table=table,
        row_groups=found.row_groups,
        attributes=inputs.attributes,
        sums=sums,
        sampler=settings.sampler,
        exact=settings.exact,
        scratch=scratch,
    )
    fitted, tried = fitter.choose(partitions, subset)
    moments = {f"{settings.sampler}, {len(fitted.prior.weights)} components": fitted.moments}
    moments |= {f"{name}, 1 component": ray.get(task) for name, task in baselines.items()}
    values, edited = fit_value_models(drawn.first(VALUE_ROWS), inputs.attributes, sums)
    return TableFit(
        fitted=fitted,
        tried=tried,
        moments=moments,
        pooled_factor=ray.get(pooled),
        values=values,
        edited=edited,
    )
