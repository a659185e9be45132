"""Reducing a latent table to moment sums: one partial a task, added in a tree; integers, so any sharding gives the same."""

import time
from collections.abc import Sequence
from typing import Any

import ray

from lbae.core.moments import MomentSums, moment_sums
from lbae.distributed.session import add_tree, cluster_cpus, session
from lbae.errors import UserError
from lbae.io import artifact
from lbae.io import moments as moments_io
from lbae.io.attributes import Attribute, candidate_columns, column_values, indicators, select_attributes
from lbae.io.latent_table import LatentTable, open_latent_table, packed_latents
from lbae.io.storage import absolute
from lbae.report.progress import ProgressLine


def reduce(
    *,
    latents: str,
    out: str,
    attributes: str = "all",
    tasks: int | None = None,
    overwrite: bool = False,
    address: str | None = None,
) -> dict[str, Any]:
    """Reduce a latent table to exact moment sums of its bits and attributes.

    Args:
        latents: URI of the latent table.
        out: URI of the moment sums.
        attributes: all, none, or a comma-separated list of columns and ``column=value`` names.
        tasks: how many tasks share the part files; two a CPU when not given. The sums do not depend on it.
        overwrite: replace another artifact at ``out``.
        address: Ray cluster to join; found or started when not given.
    """
    table = open_latent_table(absolute(latents))
    if not table.manifest.rows:
        raise UserError(f"{latents} holds no rows; there is nothing to reduce")
    parents = {"latents": table.manifest.fingerprint, "model": table.model_fingerprint}
    settings = {"attributes": attributes}
    candidates = candidate_columns(table.schema())
    if attributes not in ("all", "none"):
        asked = {name.strip().partition("=")[0] for name in attributes.split(",")}
        candidates = [name for name in candidates if name in asked] or candidates
    if attributes == "none":
        candidates = []
    with session(address):
        chosen = select_attributes(attributes, _values(table, candidates))
        done = artifact.begin(out, moments_io.KIND, parents, settings, overwrite)
        if done:
            return done
        started = time.monotonic()
        with ProgressLine("reduce", table.manifest.rows, "rows") as line:
            sums = _sums(table, chosen, tasks or 2 * cluster_cpus(), line)
        result = {"seconds": round(time.monotonic() - started, 1)}
        return moments_io.save_moments(out, sums, parents=parents, config=settings, result=result)


def _chunks(parts: Sequence[str], count: int) -> list[list[str]]:
    """Parts dealt out to at most ``count`` tasks."""
    return [list(parts[i::count]) for i in range(min(count, len(parts)))]


def _values(table: LatentTable, columns: list[str]) -> dict[str, set[Any]]:
    """Distinct values of the columns over the whole table."""
    if not columns:
        return {}

    @ray.remote
    def scan(parts: list[str]) -> dict[str, set[Any]]:
        found: dict[str, set[Any]] = {name: set() for name in columns}
        for part in parts:
            for name, values in column_values(table.read(part, columns), columns).items():
                found[name] |= values
        return found

    merged: dict[str, set[Any]] = {name: set() for name in columns}
    for found in ray.get([scan.remote(parts) for parts in _chunks(table.parts, 2 * cluster_cpus())]):
        for name, values in found.items():
            merged[name] |= values
    return merged


def _sums(table: LatentTable, attributes: tuple[Attribute, ...], tasks: int, line: ProgressLine) -> MomentSums:
    names = tuple(attribute.name for attribute in attributes)
    columns = ["latent", *dict.fromkeys(attribute.column for attribute in attributes)]

    @ray.remote
    def partial(parts: list[str]) -> MomentSums:
        total: MomentSums | None = None
        for part in parts:
            rows = table.read(part, columns)
            present, absent = indicators(rows, attributes)
            sums = moment_sums(packed_latents(rows), table.latent_dim, names, present, absent)
            total = sums if total is None else total + sums
        assert total is not None
        return total

    rows_per_task = table.manifest.rows / min(tasks, len(table.parts))
    chunks = _chunks(table.parts, tasks)
    return add_tree([partial.remote(parts) for parts in chunks], lambda done: line.update(round(done * rows_per_task)))
