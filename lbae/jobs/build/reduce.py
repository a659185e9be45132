"""Reduce a latent table to exact moment sums."""

import time
from dataclasses import replace
from typing import Any

from lbae.core.moments.moment_sums import MomentSums
from lbae.distributed.cluster.session import session
from lbae.distributed.cluster.storage_check import check_storage
from lbae.distributed.latent_table.sum_tasks import moment_sums_of
from lbae.distributed.latent_table.table_scan import Scan, scan
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
from lbae.io.artifacts.latent_table import LatentTable, open_latent_table
from lbae.io.artifacts.manifest import MANIFEST
from lbae.io.artifacts.moments_artifact import Lineage
from lbae.io.artifacts.output import Output
from lbae.io.storage.location import absolute, resolve
from lbae.io.storage.lock import locked
from lbae.jobs.options import Address, Names, Overwrite
from lbae.report.progress import ProgressLine


def reduce(
    *,
    latents: str,
    out: str,
    attributes: Names = ("all",),
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
        update: add the part files that the sums at ``out`` do not hold yet.
        unique: check that no key occurs twice.
        tasks: number of tasks that share the rows; by default as CPUs and rows allow. The sums are the same.
    """
    if tasks is not None and tasks < 1:
        raise UserError(f"tasks is {tasks}; allowed: 1 or more")
    table = open_latent_table(absolute(latents))
    if not table.manifest.rows:
        raise UserError(f"{latents} holds no rows; there is nothing to reduce")
    columns = columns_to_scan(attributes, table.schema())
    # "by", always None, is what sums made by earlier versions have in their configuration.
    settings = {"attributes": ",".join(attributes), "by": None}
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
            check_unique_keys(table)
        others = other_columns(table.schema())
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
            inputs=[latents],
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
    table: LatentTable, found: Scan, attributes: tuple[Attribute, ...], tasks: int | None
) -> tuple[MomentSums, dict[str, Any]]:
    with ProgressLine("reduce", found.rows, "rows") as line:
        sums, statistics = moment_sums_of(table, found.row_groups, attributes, tasks, line.update)
    return sums, statistics.facts()


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
    return moments_artifact.save_moments(output, sums, lineage, result)


def _parents(table: LatentTable) -> dict[str, str]:
    return {"latents": table.manifest.fingerprint, "model": table.model_fingerprint}


def _since(started: float) -> float:
    return round(time.monotonic() - started, 1)


def _update(
    table: LatentTable,
    found: Scan,
    attributes: tuple[Attribute, ...],
    output: Output,
    unused: dict[str, Any],
    tasks: int | None,
    started: float,
) -> dict[str, Any]:
    """Publish the next generation of the sums, with the part files that they do not hold added."""
    out = output.uri
    sums, manifest = moments_artifact.load_moments(out)
    lineage = moments_artifact.load_lineage(out, manifest)
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
    output = replace(output, extends=manifest)
    if not new:
        return output.unchanged()
    output.begin()
    rest = replace(found, row_groups=[group for group in found.row_groups if group.part in new])
    added, facts = _sums(table, rest, attributes, tasks)
    result = {"added_rows": rest.rows, **facts, **unused, "seconds": _since(started)}
    return _save(output, sums + added, table, found, attributes, result)
