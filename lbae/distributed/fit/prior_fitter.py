"""Fit one prior per partition of a table, and choose the one to publish.

Tasks compute the moment sums of each component, of the rows of a sample or exactly of all rows, and one task
per component turns them into a factor.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from lbae.core.moments.attribute_statistics import known_mean
from lbae.core.moments.moment_accumulator import sum_packed
from lbae.core.moments.moment_sums import MomentSums
from lbae.core.prior.component import fit_component
from lbae.core.prior.fidelity import expected_moments
from lbae.core.prior.memorization import QUERIES, memorizes, nearest_facts
from lbae.core.prior.prior import Prior, Sampler
from lbae.core.prior.samplers import fit_sampler as fit_prior
from lbae.distributed.fit.partition import Partition, Subset
from lbae.distributed.latent_table.grouped_sums import Partitioner, write_grouped
from lbae.io.artifacts.attribute_columns import Attribute, indicators
from lbae.io.artifacts.latent_table import RowGroup, packed_latents
from lbae.io.artifacts.latent_tables import LatentTables
from lbae.report.progress import ProgressLine

Moments = tuple[np.ndarray, np.ndarray]  # E[y] and E[y yT]


@dataclass(frozen=True, kw_only=True)
class FittedPrior:
    """A prior, facts about each component, and the expected moments of the prior's samples."""

    prior: Prior
    facts: list[dict[str, Any]]
    moments: Moments


@dataclass(frozen=True, kw_only=True)
class PriorFitter:
    """Fits one prior per partition of the tables, and chooses among them.

    Components are fitted to the sample, or with ``exact`` to all rows. ``sums`` are those of all rows, which
    a single component is fitted to. ``scratch`` is the URI of a folder for a copy of all rows, grouped by
    component.
    """

    table: LatentTables
    row_groups: list[RowGroup]
    attributes: tuple[Attribute, ...]
    sums: MomentSums
    sampler: Sampler
    exact: bool
    scratch: str

    def choose(
        self, partitions: Iterable[Partition], subset: Subset
    ) -> tuple[FittedPrior, list[dict[str, Any]]]:
        """Return the first prior that does not memorize training latents, else the last, and facts about all
        that were tried.
        """
        known, unseen = subset.latents[~subset.held_out], subset.latents[subset.held_out]
        held_out = nearest_facts(unseen, known) if len(unseen) else None
        tried = []
        for partition in partitions:
            fitted = self._fit(partition, subset.sample)
            drawn = nearest_facts(fitted.prior.sample(QUERIES, 0), known)
            memorized = held_out is not None and memorizes(drawn, held_out)
            facts = {"nearest": drawn, "nearest_held_out": held_out, "remembers": memorized}
            tried.append({**partition.facts, **facts})
            if not memorized:
                break
        return fitted, tried

    def _fit(self, partition: Partition, sample: pa.Table) -> FittedPrior:
        facts, factors = [], []
        moments = np.zeros((self.table.latent_dim + 1, self.table.latent_dim))
        with ProgressLine("fit", partition.count, "components") as line:
            tasks = self._component_tasks(partition, sample)
            for done, component in enumerate(sorted(tasks), 1):
                if fitted := ray.get(tasks.pop(component)):
                    of_component, factor, its_moments = fitted
                    facts.append({"component": component, **of_component})
                    factors.append(factor)
                    moments += of_component["rows"] * its_moments
                line.update(done)
        rows = np.array([of_component["rows"] for of_component in facts], dtype=np.float64)
        names = tuple(attribute.name for attribute in self.attributes)
        prior = Prior(
            sampler=self.sampler, weights=rows / rows.sum(), factors=np.stack(factors), attributes=names
        )
        means = moments[0] / rows.sum(), moments[1:] / rows.sum()
        return FittedPrior(prior=prior, facts=facts, moments=means)

    def _component_tasks(self, partition: Partition, sample: pa.Table) -> dict[int, ray.ObjectRef]:
        """Start one task per component; the moment sums of components never travel to this process."""
        # A component without labels for an attribute uses the attribute's overall mean.
        means = known_mean(self.sums)
        settings = self.sampler, ray.put(partition.within), partition.shrinkage, means
        if partition.partitioner is None:
            return {0: _fit_component.remote(self.sums, *settings)}
        if self.exact:
            return self._exact_tasks(partition, partition.partitioner, settings)
        order = np.argsort(partition.labels, kind="stable")
        rows = ray.put(sample.take(order))
        starts = np.searchsorted(partition.labels[order], np.arange(partition.count + 1)).tolist()
        return {
            component: _fit_rows.remote(rows, slice(*span), self.table.latent_dim, self.attributes, settings)
            for component, span in enumerate(itertools.pairwise(starts))
        }

    def _exact_tasks(
        self, partition: Partition, partitioner: Partitioner, settings: tuple[Any, ...]
    ) -> dict[int, ray.ObjectRef]:
        columns = dict.fromkeys([*partition.columns, *(attribute.column for attribute in self.attributes)])
        grouped = write_grouped(
            self.table, self.row_groups, partitioner, partition.count, list(columns), self.scratch
        )
        tasks = {
            component: _fit_component.remote(sums, *settings)
            for component, sums in grouped.sums(self.attributes)
        }
        grouped.remove()
        return tasks


Fitted = tuple[dict[str, Any], np.ndarray, np.ndarray]


@ray.remote
def _fit_component(sums: MomentSums, *settings: Any) -> Fitted | None:
    """The result of :func:`fit_component`; None for a component without rows."""
    return fit_component(sums, *settings) if sums.count else None


@ray.remote
def _fit_rows(
    rows: pa.Table,
    span: slice,
    bits: int,
    attributes: tuple[Attribute, ...],
    settings: tuple[Any, ...],
) -> Fitted | None:
    """The result of :func:`fit_component` for the rows of a span; None for no rows."""
    mine = rows.slice(span.start, span.stop - span.start)
    if not len(mine):
        return None
    names = tuple(attribute.name for attribute in attributes)
    sums = sum_packed(packed_latents(mine), bits, names, *indicators(mine, attributes))
    sampler, within, shrinkage, means = settings
    return fit_component(sums, sampler, ray.get(within), shrinkage, means)


@ray.remote
def single_gaussian_moments(sampler: Sampler, sums: MomentSums) -> Moments:
    """The expected moments of a one-component prior that is fitted to the sums."""
    return expected_moments(fit_prior(sampler, sums))
