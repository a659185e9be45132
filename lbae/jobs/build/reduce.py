"""Reduce a latent table to exact moment sums."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow.compute as pc
import ray.data

from lbae.core.moments.moment_sums import MomentSums
from lbae.distributed.cluster.resources import cluster_cpus
from lbae.distributed.cluster.session import session
from lbae.distributed.cluster.storage_check import check_storage
from lbae.distributed.cluster.tasks import configure_ray_data
from lbae.distributed.latents.scan import Scan, scan
from lbae.distributed.latents.sum_tasks import Assign, Spent, by_value, grouped_sums_of, moment_sums_of
from lbae.errors import UserError, unknown
from lbae.io.artifacts import moments_artifact as moments_io
from lbae.io.artifacts.attribute_columns import (
    Attribute,
    candidate_columns,
    columns_to_scan,
    left_out,
    other_columns,
    select_attributes,
)
from lbae.io.artifacts.latent_table import LatentTable, open_latent_table
from lbae.io.artifacts.manifest import MANIFEST
from lbae.io.artifacts.moments_artifact import Lineage
from lbae.io.artifacts.output import Output
from lbae.io.storage.location import absolute, resolve
from lbae.io.storage.lock import locked
from lbae.jobs.options import Address, Names, Overwrite
from lbae.report.progress import ProgressLine

_KEYS_A_PARTITION = 2**20


def reduce(
    *,
    latents: str,
    out: str,
    attributes: Names = ("all",),
    by: str | None = None,
    update: bool = False,
    unique: bool = False,
    tasks: int | None = None,
    overwrite: Overwrite = False,
    address: Address = None,
) -> dict[str, Any]:
    """Reduce a latent table to exact moment sums of its bits and attributes.

    Args:
        latents: URI of the latent table.
        out: URI of the moment sums.
        attributes: all, none, or a column or ``column=value``; may be given several times.
        by: a class or yes/no column; one set of sums for each of its values.
        update: add the part files that the sums at ``out`` do not hold yet.
        unique: check that no key occurs twice.
        tasks: number of tasks that share the rows; by default as CPUs and rows allow. The sums are the same.
    """
    if tasks is not None and tasks < 1:
        raise UserError(f"tasks is {tasks}; allowed: 1 or more")
    if by is not None and (update or tasks):
        raise UserError("--by makes new sums with tasks of its own; give it without --update and --tasks")
    table = open_latent_table(absolute(latents))
    if not table.manifest.rows:
        raise UserError(f"{latents} holds no rows; there is nothing to reduce")
    columns = _columns(table, attributes, by)
    settings = {"attributes": ",".join(attributes), "by": by}
    started = time.monotonic()
    with locked(out), session(address):
        check_storage([latents], [out])
        found = scan(table, columns)
        if found.rows != table.manifest.rows:
            raise UserError(
                f"the part files of {latents} hold {found.rows} rows, its manifest says"
                f" {table.manifest.rows}:"
                " a file was replaced; encode the table again"
            )
        if unique:
            _check_unique(table)
        others = other_columns(table.schema())
        chosen = select_attributes(attributes, found.values, others)
        groups = by_value(by, found.values[by]) if by else None
        kind = moments_io.GROUPED_KIND if by else moments_io.KIND
        output = Output(
            out, kind, parents=_parents(table), config=settings, inputs=[latents], overwrite=overwrite
        )
        if update and (resolve(out) / MANIFEST).exists():
            return _update(table, found, chosen, output, tasks, started)
        if done := output.begin():
            return done
        if groups:
            return _by_group(table, found, groups, chosen, out, settings, started)
        sums, facts = _sums(table, found, chosen, tasks)
        if attributes == ("all",) and (unused := {**others, **left_out(found.values)}):
            facts["left_out"] = unused
        return _save(output, sums, table, found, chosen, {**facts, "seconds": _since(started)})


def _columns(table: LatentTable, attributes: Names, by: str | None) -> list[str]:
    """The columns whose values must be known; UserError when there is no such column."""
    candidates, asked = candidate_columns(table.schema()), columns_to_scan(attributes, table.schema())
    if by is not None and by not in candidates:
        raise unknown("class column", by, candidates)
    return [name for name in candidates if name == by or name in asked]


def _sums(
    table: LatentTable, found: Scan, attributes: tuple[Attribute, ...], tasks: int | None
) -> tuple[MomentSums, dict[str, Any]]:
    with ProgressLine("reduce", found.rows, "rows") as line:
        sums, spent = moment_sums_of(table, found.groups, attributes, tasks, line.update)
    return sums, spent.facts()


def _save(
    output: Output,
    sums: MomentSums,
    table: LatentTable,
    found: Scan,
    attributes: tuple[Attribute, ...],
    result: dict[str, Any],
) -> dict[str, Any]:
    lineage = Lineage(
        tables={table.manifest.fingerprint: table.manifest.rows},
        parts=dict.fromkeys(found.digests.values(), 1),
        attributes=attributes,
    )
    return moments_io.save_moments(output, sums, lineage, result)


def _parents(table: LatentTable) -> dict[str, str]:
    return {"latents": table.manifest.fingerprint, "model": table.model_fingerprint}


def _since(started: float) -> float:
    return round(time.monotonic() - started, 1)


def _update(
    table: LatentTable,
    found: Scan,
    attributes: tuple[Attribute, ...],
    output: Output,
    tasks: int | None,
    started: float,
) -> dict[str, Any]:
    """Publish the next generation of the sums: the part files that they do not hold are added."""
    out = output.uri
    sums, manifest = moments_io.load_moments(out)
    lineage = moments_io.load_lineage(out, manifest)
    if manifest.parents["model"] != table.model_fingerprint:
        raise UserError(
            f"{out} sums latents of model {manifest.parents['model']}, not of {table.model_fingerprint} as"
            f" {table.uri} holds"
        )
    if (manifest.config, lineage.attributes) != (output.config, attributes):
        names = ", ".join(attribute.name for attribute in attributes) or "none"
        raise UserError(
            f"{out} has the attributes {', '.join(sums.attributes) or 'none'}; those of the table are now"
            f" {names}:"
            " give the same --attributes, or reduce the whole table with --overwrite"
        )
    if gone := lineage.parts.keys() - set(found.digests.values()):
        raise UserError(
            f"{out} sums {len(gone)} part files that {table.uri} does not hold (any more); reduce the table"
            f" with --overwrite"
        )
    new = {part for part, digest in found.digests.items() if digest not in lineage.parts}
    output = replace(output, base=manifest)
    if not new:
        return output.unchanged()
    output.begin()
    rest = replace(found, groups=[group for group in found.groups if group.part in new])
    added, facts = _sums(table, rest, attributes, tasks)
    result = {"added_rows": rest.rows, **facts, "seconds": _since(started)}
    return _save(output, sums + added, table, found, attributes, result)


def _by_group(
    table: LatentTable,
    found: Scan,
    groups: tuple[list[Any], Assign],
    attributes: tuple[Attribute, ...],
    out: str,
    settings: dict[str, Any],
    started: float,
) -> dict[str, Any]:
    """One set of sums a value of a column; rows without a value belong to none and are counted."""
    by, (values, assign) = settings["by"], groups
    columns = ["latent", *dict.fromkeys([by, *(attribute.column for attribute in attributes)])]
    scratch = str(resolve(out) / "by-group")
    spent = Spent()

    def sums_of(line: ProgressLine) -> Iterator[tuple[int, MomentSums]]:
        for index, sums in grouped_sums_of(
            table, found.groups, assign, len(values), columns, attributes, scratch, spent
        ):
            yield index, ray.get(sums)
            line.update(spent.rows)

    def result() -> dict[str, Any]:
        resolve(scratch).remove()
        return {"ungrouped_rows": found.rows - spent.rows, **spent.facts(), "seconds": _since(started)}

    with ProgressLine("reduce", found.rows, "rows") as line:
        names = [f"{by}={value}" for value in values]
        return moments_io.save_groups(
            out, names, sums_of(line), parents=_parents(table), config=settings, result=result
        )


def _check_unique(table: LatentTable) -> None:
    """UserError with some of the keys that occur more than once."""
    configure_ray_data()
    places = [resolve(table.uri) / part for part in table.parts]
    partitions = max(2 * cluster_cpus(), table.manifest.rows // _KEYS_A_PARTITION)
    rows = ray.data.read_parquet([place.path for place in places], filesystem=places[0].fs)
    counts = rows.select_columns(["key"]).groupby("key", num_partitions=partitions).count()
    twice = counts.map_batches(
        lambda rows: rows.filter(pc.greater(rows["count()"], 1)), batch_format="pyarrow", batch_size=None
    )
    if found := [row["key"] for row in twice.take(5)]:
        raise UserError(
            f"keys of {table.uri} occur more than once: {', '.join(sorted(found))}; encode the table again"
        )
