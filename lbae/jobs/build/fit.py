"""Fit a prior to the moments and publish it with the model as a bundle."""

import json
import time
from typing import Any, Literal

import numpy as np

from lbae.config import ModelConfig
from lbae.core.moments.attribute_statistics import attribute_statistics
from lbae.core.moments.moment_sums import MomentSums
from lbae.core.prior.fidelity import covariance, moment_errors
from lbae.distributed.cluster.session import session
from lbae.distributed.cluster.storage_check import check_storage
from lbae.distributed.fit.prior_fitter import Moments
from lbae.distributed.fit.table_fit import FitInputs, FitSettings, TableFit, fit_table, read_fit_inputs
from lbae.errors import UserError, unknown
from lbae.io.artifacts import bundle_artifact, model_artifact
from lbae.io.artifacts.attribute_columns import candidate_columns
from lbae.io.artifacts.latent_tables import LatentTables
from lbae.io.artifacts.output import Output
from lbae.io.sources.plan import plan
from lbae.io.storage.hub import pinned
from lbae.io.storage.location import resolve
from lbae.io.storage.lock import locked
from lbae.jobs.options import Address, OneOrMore, Overwrite
from lbae.report.figures.pictures import load_images
from lbae.report.figures.plots import plot_covariances, plot_marginals


def fit(
    *,
    model: str,
    latents: OneOrMore,
    moments: str,
    out: str,
    components: int | Literal["auto"] = "auto",
    by: str | None = None,
    sampler: Literal["hyperplane", "gaussian"] = "gaussian",
    seed: int = 0,
    exact: bool = False,
    examples: int = 0,
    overwrite: Overwrite = False,
    address: Address = None,
) -> dict[str, Any]:
    """Fit a prior and attribute statistics, and publish them with the model as a bundle.

    Args:
        model: URI of the model.
        latents: URI of the latent table. Several, or a pattern such as 'OUT/*', are fitted as one table.
        moments: URI of the moment sums of these tables, by one `lbae reduce` or by `lbae moments add`.
        out: URI of the bundle to write.
        components: Number of mixture components, 1 or more, or auto.
            auto takes the most of 200, 50, 10 and 1 whose samples do not memorise training latents.
        by: Class or yes/no column: one component per value instead of clusters of similar images.
        sampler: How a component draws latents: gaussian thresholds a correlated Gaussian;
            hyperplane splits unit vectors by a random hyperplane (slides 12-15).
        seed: Seed of the clustering, 0 or more.
        exact: Fit components to all rows, not to a sample of about as many rows per component as there are
            bits, at least 60,000 in all. It takes as long as decoding every row.
        examples: Number of source images to store in the bundle, for the page of the service to show.
            The bundle then contains these images, so check their licence first.
    """
    if seed < 0:
        raise UserError(f"seed is {seed}; allowed: 0 or more")
    count = _component_count(str(components), by)
    model = pinned(model)
    inputs = read_fit_inputs(model, latents, moments)
    _check_components(count, by, inputs)
    settings: dict[str, Any] = {
        "components": str(components),
        "by": by,
        "sampler": sampler,
        "seed": seed,
        "precision": inputs.table.precision,
    }
    if exact:
        settings["exact"] = True
    if examples:
        settings["examples"] = examples
    codec = model_artifact.load_model(model, device="cpu")
    images = _examples(inputs.table, codec.config, examples)
    output = Output(
        out,
        bundle_artifact.KIND,
        parents=inputs.parents,
        config=settings,
        inputs=[model, *inputs.table.uris, moments],
        overwrite=overwrite,
    )
    with locked(out):
        if done := output.existing():
            return done
        started = time.monotonic()
        with session(address):
            check_storage(inputs.table.uris, [out])
            output.begin()
            chosen = FitSettings(components=count, by=by, sampler=sampler, seed=seed, exact=exact)
            found = fit_table(inputs, codec, chosen, str(resolve(out) / "by-component"))
        return _publish(output, model, inputs.sums, found, images, started)


def _check_components(count: int | None, by: str | None, inputs: FitInputs) -> None:
    """UserError if there are more components than rows, or ``by`` is no class column."""
    table, rows = inputs.table, inputs.sums.count
    if count and count > rows:
        raise UserError(f"components is {count}; allowed: 1 to the {rows} rows of {table}")
    if by is not None and by not in candidate_columns(table.columns):
        raise unknown("class column", by, candidate_columns(table.columns))


def _publish(
    output: Output, model: str, sums: MomentSums, found: TableFit, images: np.ndarray, started: float
) -> dict[str, Any]:
    """Measure the prior against the moments and publish the bundle."""
    drawn = found.moments
    fidelity = {name: moment_errors(*of, sums.mean, sums.second) for name, of in drawn.items()}
    facts = {
        "overall": fidelity,
        "tried": found.tried,
        "components": found.fitted.facts,
        "edits": found.edited,
    }
    result = {
        "components": len(found.fitted.prior.weights),
        "sampler": output.config["sampler"],
        "constant_bits": int((np.abs(sums.mean) == 1).sum()),
        "tried": found.tried,
        "fidelity": fidelity,
        "seconds": round(time.monotonic() - started, 1),
    }
    return bundle_artifact.save_bundle(
        output,
        model=model,
        prior=found.fitted.prior,
        pooled_factor=found.pooled_factor,
        attributes=attribute_statistics(sums),
        values=found.values,
        examples=images,
        rows=sums.count,
        result=result,
        report=_report(sums, drawn, facts),
    )


def _examples(table: LatentTables, config: ModelConfig, count: int) -> np.ndarray:
    """The first images of the first table's source."""
    if count < 0:
        raise UserError(f"examples is {count}; allowed: 0 or more")
    if not count:
        return np.empty((0, *config.image_shape), dtype=np.uint8)
    return load_images(config, plan(table.tables[0].images()), count)[0]


def _component_count(components: str, by: str | None) -> int | None:
    """The requested number of components; None for auto."""
    if components == "auto":
        return None
    if by is not None:
        raise UserError("give --components or --by, not both: --by makes one component per class")
    if not components.isdigit() or int(components) < 1:
        raise UserError(f"components is {components!r}; allowed: auto, or a whole number from 1")
    return int(components)


def _report(sums: MomentSums, drawn: dict[str, Moments], facts: dict[str, Any]) -> dict[str, bytes]:
    """Files about the prior: its numbers, and slide 16's two plots of drawn against training latents."""
    return {
        "fidelity.json": json.dumps(facts, indent=1).encode(),
        "marginals.png": plot_marginals(sums.mean, {name: mean for name, (mean, _) in drawn.items()}),
        "covariances.png": plot_covariances(
            covariance(sums.mean, sums.second), {name: covariance(*of) for name, of in drawn.items()}
        ),
    }
