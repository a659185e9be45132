"""Fitting a prior: a partition learned on a subset, grouped moment sums of the whole table, a factor a task,
one bundle.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from lbae.core.moments.moment_sums import MomentSums
from lbae.core.prior.component import fit_component
from lbae.core.prior.fidelity import expected_moments
from lbae.core.prior.memory import QUERIES, nearest_facts, remembers
from lbae.core.prior.prior import Prior, Sampler
from lbae.core.prior.samplers import fit as fit_one
from lbae.distributed.fit.partition import Partition, Subset
from lbae.distributed.latents.scan import Scan
from lbae.distributed.latents.sum_tasks import Spent, grouped_sums_of
from lbae.io.artifacts.attribute_columns import Attribute
from lbae.io.artifacts.latent_table import LatentTable
from lbae.io.storage.location import resolve
from lbae.report.progress import ProgressLine

Moments = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class _Fitted:
    """A prior, the facts of every component, and [E[y]; E[y yT]] of the prior's latents."""

    prior: Prior
    facts: list[dict[str, Any]]
    moments: Moments


def choose_prior(
    table: LatentTable,
    found: Scan,
    subset: Subset,
    partitions: Iterable[Partition],
    attributes: tuple[Attribute, ...],
    elsewhere: np.ndarray,
    sampler: Sampler,
    scratch: str,
) -> tuple[_Fitted, list[dict[str, Any]]]:
    """The first prior that does not remember training latents, or the last there is; facts about all that
    were fitted.
    """
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
    """Moment sums a component, then a factor a component: each is one task, and only factors come
    back here."""
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
def one_component(sampler: Sampler, sums: MomentSums) -> Moments:
    return expected_moments(fit_one(sampler, sums))
