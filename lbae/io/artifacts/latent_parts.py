"""Latent tables in the making: first a file a shard, so that a killed job continues, then part files of a
good size.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lbae.config import Precision
from lbae.errors import LbaeError, UserError
from lbae.io.artifacts import output as artifact
from lbae.io.artifacts.latent_table import (
    KIND,
    LatentTable,
    open_latent_table,
    rows_digest,
    with_digest,
    write_parquet,
)
from lbae.io.artifacts.model_artifact import check_model
from lbae.io.artifacts.output import WORK, Manifest, RowDigest
from lbae.io.storage.location import resolve

_PART_BYTES = 128 * 2**20
_ROW_GROUP = 2**16
_LATENTS, _QUARANTINE = "latents-", "quarantine-"
_MADE = ("device", "precision")


@dataclass(frozen=True, kw_only=True)
class PartPlan:
    """A part file to be written: its name, the shards it consists of, and those that have a quarantine."""

    name: str
    shards: tuple[int, ...]
    bad: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part that was written; ``made`` are the devices and precisions its latents were made at."""

    files: tuple[str, ...]
    rows: int
    bad: int
    digest: int
    made: frozenset[tuple[str, ...]]


def open_for_append(out: str, model: Manifest, config: dict[str, Any]) -> LatentTable:
    """The table that images are added to; UserError when it is of another model or was written otherwise."""
    table = open_latent_table(out)
    artifact.clear_published(out, table.manifest)
    check_model(f"latent table {out}", table.model_fingerprint, model)
    if changed := artifact.changes(table.manifest.config, config):
        raise UserError(f"{out} was written otherwise ({changed}); append with the same options")
    return table


def write_shard(
    out: str, index: int, latents: Sequence[pa.Table], quarantine: pa.Table, made: dict[str, str]
) -> None:
    """Write what one shard became, from its latents in some tables. They come last: once they are there, it
    is finished.
    """
    if len(quarantine):
        write_parquet(out, f"{WORK}/{_QUARANTINE}{index}.parquet", quarantine)
    whole = with_digest(
        pa.concat_tables(latents), sum(rows_digest(table.schema) for table in latents) % 2**256
    )
    metadata = {**whole.schema.metadata, **{f"lbae.{name}": made[name] for name in _MADE}}
    write_parquet(out, f"{WORK}/{_LATENTS}{index}.parquet", whole.replace_schema_metadata(metadata))


def finished_shards(out: str) -> set[int]:
    """The shards that are finished."""
    return set(_written(out, _LATENTS))


def precision(out: str) -> Precision | None:
    """The precision that the finished shards were made at; None when there are none."""
    for index in finished_shards(out):
        with (resolve(out) / WORK / f"{_LATENTS}{index}.parquet").open() as file:
            metadata = pq.read_schema(file).metadata
        return "bfloat16" if metadata[b"lbae.precision"] == b"bfloat16" else "float32"
    return None


def plan_parts(out: str, generation: int, at_least: int) -> list[PartPlan]:
    """Runs of finished shards of about 128 MB, or less where there would be fewer than ``at_least`` parts."""
    sizes, bad = _written(out, _LATENTS), _written(out, _QUARANTINE)
    target = min(_PART_BYTES, sum(sizes.values()) / at_least)
    runs: list[list[int]] = [[]]
    room = target
    for index in sorted(sizes):
        if runs[-1] and room < sizes[index] / 2:
            runs.append([])
            room = target
        runs[-1].append(index)
        room -= sizes[index]
    return [
        PartPlan(
            name=f"part-{generation:03d}-{i:05d}.parquet",
            shards=tuple(run),
            bad=tuple(s for s in run if s in bad),
        )
        for i, run in enumerate(runs)
    ]


def _written(out: str, what: str) -> dict[int, int]:
    """The shards that have such a file, and its bytes."""
    work = resolve(out) / WORK
    files = work.files() if work.exists() else []
    found = ((re.fullmatch(rf"{what}(\d+)\.parquet", name), info) for name, info in files)
    return {int(match[1]): info["size"] for match, info in found if match}


def assemble(out: str, plan: PartPlan) -> Part:
    """Write a part file, and one of its quarantine if there is any, from the files of its shards."""
    read = [_read(out, f"{_LATENTS}{index}.parquet") for index in plan.shards]
    latents = pa.concat_tables(read)
    digest = sum(rows_digest(table.schema) for table in read) % 2**256
    files, bad = [], 0
    if len(latents):
        files.append(f"data/{plan.name}")
        groups = [min(_ROW_GROUP, len(latents) - first) for first in range(0, len(latents), _ROW_GROUP)]
        write_parquet(out, files[-1], with_digest(latents, digest), groups)
    if plan.bad:
        quarantine = pa.concat_tables(_read(out, f"{_QUARANTINE}{index}.parquet") for index in plan.bad)
        files.append(f"quarantine/{plan.name}")
        bad = len(quarantine)
        write_parquet(out, files[-1], quarantine)
    made = frozenset(
        tuple(t.schema.metadata[f"lbae.{name}".encode()].decode() for name in _MADE) for t in read
    )
    return Part(files=tuple(files), rows=len(latents), bad=bad, digest=digest, made=made)


def _read(out: str, name: str) -> pa.Table:
    with (resolve(out) / WORK / name).open() as file:
        return pq.ParquetFile(file).read()


def publish(
    out: str,
    parts: list[Part],
    base: LatentTable | None,
    parents: dict[str, str],
    config: dict[str, Any],
    result: dict[str, Any],
) -> dict[str, Any]:
    """Publish the table of these parts, after those of ``base``, and remove the shards' files.

    LbaeError when its latents were made at two precisions: they could not be served alike.
    """
    before = base.manifest if base else None
    devices, precisions = ({made[i] for part in parts for made in part.made} for i in range(len(_MADE)))
    if before:
        precisions.add(before.result["precision"])
    if len(precisions) != 1:
        raise LbaeError(
            f"{out} was encoded at {' and '.join(sorted(precisions))}; use one kind of device, and"
            f" --overwrite"
        )
    rows, bad = sum(part.rows for part in parts), sum(part.bad for part in parts)
    digest = RowDigest((sum(part.digest for part in parts) + (base.digest() if base else 0)) % 2**256)
    published = artifact.publish(
        out,
        KIND,
        fingerprint=digest.fingerprint(parents["model"]),
        parents=parents,
        config=config,
        rows=rows + (before.rows if before else 0),
        files=[*(before.files if before else ()), *(file for part in parts for file in part.files)],
        result={
            "bad": bad + (before.result["bad"] if before else 0),
            "latent_dim": config["latent_dim"],
            "device": ", ".join(sorted(devices)),
            "precision": precisions.pop(),
            **result,
        },
        generation=before.generation + 1 if before else 1,
    )
    (resolve(out) / WORK).remove()
    return published
