"""Reduce latent tables to the exact moment sums of their bits and attributes."""

import time
from dataclasses import replace
from typing import Any

from lbae.core.moments.moment_sums import MomentSums
from lbae.distributed.cluster.session import session
from lbae.distributed.cluster.storage_check import check_storage
from lbae.distributed.latent_table.little_work import is_little_work
from lbae.distributed.latent_table.sum_tasks import moment_sums_of
from lbae.distributed.latent_table.table_scan import Scan, check_scan, scan
from lbae.distributed.latent_table.unique_keys import check_unique_keys
from lbae.errors import UserError
from lbae.io.artifacts import moments_artifact
from lbae.io.artifacts.attribute_columns import (
    Attribute,
    columns_to_scan,
    other_columns,
    select_attributes,
    unusable_columns,
)
from lbae.io.artifacts.latent_tables import LatentTables, open_latent_tables
from lbae.io.artifacts.manifest import MANIFEST
from lbae.io.artifacts.moments_artifact import Lineage
from lbae.io.artifacts.output import Output
from lbae.io.storage.location import resolve
from lbae.io.storage.lock import locked
from lbae.jobs.options import Address, Names, OneOrMore, Overwrite
from lbae.report.progress import ProgressLine


def reduce(
    *,
    latents: OneOrMore,
    out: str,
    attributes: Names = ("all",),
    update: bool = False,
    unique: bool = False,
    tasks: int | None = None,
    overwrite: Overwrite = False,
    address: Address = None,
) -> dict[str, Any]:
    """Reduce latent tables to exact moment sums of their bits and attributes.

    Args:
        latents: URI of the latent table. Several, or a pattern such as 'OUT/*', are summed as one table.
            They need one model and different images.
        out: URI of the moment sums to write.
        attributes: Attribute to sum with the bits: all, none, a column, or column=value.
            Repeat for several; given values replace the default.
        update: Add only the part files that the sums at --out do not contain yet.
        unique: Fail if a key occurs more than once in the tables.
        tasks: Largest number of parallel tasks; it does not change the sums.
            If omitted: as CPUs and rows allow.
    """
    if tasks is not None and tasks < 1:
        raise UserError(f"tasks is {tasks}; allowed: 1 or more")
    table = open_latent_tables(latents)
    if not table.rows:
        raise UserError(f"{table} holds no rows; there is nothing to reduce")
    columns = columns_to_scan(attributes, table.columns)
    # Earlier versions stored "by"; without it, their finished sums would count as made from other options.
    settings = {"attributes": ",".join(attributes), "by": None}
    started = time.monotonic()
    little = is_little_work(table.rows, table.latent_dim**2)
    with locked(out) as check_lock, session(address, little=little):
        check_storage(table.uris, [out])
        found = scan(table, columns)
        check_scan(table, found)
        if unique:
            check_unique_keys(table, found, check_lock)
        others = other_columns(table.columns)
        chosen = select_attributes(attributes, found.values, others)
        columns_left_out = (
            {**others, **unusable_columns(found.values)} if tuple(attributes) == ("all",) else {}
        )
        unused = {"left_out": columns_left_out} if columns_left_out else {}
        output = Output(
            out,
            moments_artifact.KIND,
            parents=_parents(table),
            config=settings,
            inputs=table.uris,
            overwrite=overwrite,
        )
        if update and (resolve(out) / MANIFEST).exists():
            return _update(table, found, chosen, output, unused, tasks, started)
        if done := output.begin():
            return done
        sums, facts = _sums(table, found, chosen, tasks)
        facts |= {**unused, "seconds": _since(started)}
        return _save(output, sums, table, found, chosen, facts)


def _sums(
    table: LatentTables, found: Scan, attributes: tuple[Attribute, ...], tasks: int | None
) -> tuple[MomentSums, dict[str, Any]]:
    with ProgressLine("reduce", found.rows, "rows") as line:
        sums, statistics = moment_sums_of(table, found.row_groups, attributes, tasks, line.update)
    return sums, statistics.facts()


def _save(
    output: Output,
    sums: MomentSums,
    table: LatentTables,
    found: Scan,
    attributes: tuple[Attribute, ...],
    result: dict[str, Any],
) -> dict[str, Any]:
    lineage = Lineage(
        tables=table.rows_of_tables,
        parts=dict.fromkeys(found.digests.values(), 1),
        attributes=attributes,
    )
    return moments_artifact.save_moments(output, sums, lineage, result)


def _parents(table: LatentTables) -> dict[str, str]:
    return {"latents": table.fingerprint, "model": table.model_fingerprint}


def _since(started: float) -> float:
    return round(time.monotonic() - started, 1)


def _update(
    table: LatentTables,
    found: Scan,
    attributes: tuple[Attribute, ...],
    output: Output,
    unused: dict[str, Any],
    tasks: int | None,
    started: float,
) -> dict[str, Any]:
    """Add the part files that the sums lack, and publish the next generation."""
    out = output.uri
    sums, manifest = moments_artifact.load_moments(out)
    lineage = moments_artifact.load_lineage(out, manifest)
    if manifest.parents["model"] != table.model_fingerprint:
        raise UserError(
            f"{out} holds sums for model {manifest.parents['model']}, but {table} was encoded with model"
            f" {table.model_fingerprint}"
        )
    if (manifest.config, lineage.attributes) != (output.config, attributes):
        names = ", ".join(attribute.name for attribute in attributes) or "none"
        raise UserError(
            f"{out} has the attributes {', '.join(sums.attributes) or 'none'}; the table now gives"
            f" {names}:"
            " give the same --attributes, or reduce the whole table with --overwrite"
        )
    if gone := lineage.parts.keys() - set(found.digests.values()):
        raise UserError(
            f"{out} contains {len(gone)} part files that {table} does not have (any more); reduce the"
            f" table with --overwrite"
        )
    new = {part for part, digest in found.digests.items() if digest not in lineage.parts}
    output = replace(output, extends=manifest)
    if not new:
        return output.unchanged()
    output.begin()
    rest = replace(found, row_groups=[group for group in found.row_groups if group.part in new])
    added, facts = _sums(table, rest, attributes, tasks)
    result = {"added_rows": rest.rows, **facts, **unused, "seconds": _since(started)}
    return _save(output, sums + added, table, found, attributes, result)
