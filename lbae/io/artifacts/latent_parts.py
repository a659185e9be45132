"""Writing a latent table: one file per shard, so that a killed job resumes, then larger part files."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lbae.config import Precision
from lbae.errors import LbaeError, UserError
from lbae.io.artifacts.latent_table import (
    LatentTable,
    open_latent_table,
    rows_digest,
    with_digest,
)
from lbae.io.artifacts.manifest import Manifest, changes
from lbae.io.artifacts.model_artifact import check_model
from lbae.io.artifacts.output import WORK, Output
from lbae.io.artifacts.written_part import Part, total_digest
from lbae.io.storage.digests import RowDigest
from lbae.io.storage.location import resolve
from lbae.io.storage.parquet_file import open_parquet, write_parquet
from lbae.io.storage.visibility import wait_until_visible

_PART_BYTES = 128 * 2**20
_ROW_GROUP = 2**16
_LATENTS, _QUARANTINE = "latents-", "quarantine-"
_ENCODER = ("device", "precision")


@dataclass(frozen=True, kw_only=True)
class PartPlan:
    """A part file to write: its name, and the row count of each of its shards."""

    name: str
    rows: dict[int, int]

    def __str__(self) -> str:
        return f"{self.name} from the files of shards {min(self.rows)} to {max(self.rows)}"


def open_for_append(out: str, model: Manifest, config: dict[str, Any]) -> LatentTable:
    """The table to append to; raises UserError if its model or its options differ."""
    table = open_latent_table(out)
    check_model(f"latent table {out}", table.model_fingerprint, model)
    if changed := changes(table.manifest.config, config):
        raise UserError(f"{out} was written with different options ({changed}); append with the same ones")
    return table


def write_shard(
    out: str, index: int, latents: Sequence[pa.Table], quarantine: pa.Table, encoder: dict[str, str]
) -> None:
    """Write the files of one shard; ``encoder`` gives the device and the precision of its latents.

    The file of the latents is written last: the shard is finished once it exists.
    """
    if len(quarantine):
        write_parquet(out, f"{WORK}/{_QUARANTINE}{index}.parquet", quarantine)
    digest = RowDigest(sum(rows_digest(table.schema) for table in latents))
    whole = with_digest(pa.concat_tables(latents), digest.total)
    metadata = {**whole.schema.metadata, **{f"lbae.{name}": encoder[name] for name in _ENCODER}}
    write_parquet(out, f"{WORK}/{_LATENTS}{index}.parquet", whole.replace_schema_metadata(metadata))


def finished_shards(out: str) -> set[int]:
    """Indices of the finished shards."""
    return set(_written(out, _LATENTS))


def precision(out: str) -> Precision | None:
    """The precision at which the finished shards were encoded; None if there are none."""
    for index in finished_shards(out):
        with open_parquet(resolve(out) / WORK / f"{_LATENTS}{index}.parquet") as file:
            metadata = file.schema_arrow.metadata
        return "bfloat16" if metadata[b"lbae.precision"] == b"bfloat16" else "float32"
    return None


def plan_latent_parts(out: str, rows: Mapping[int, int], generation: int, at_least: int) -> list[PartPlan]:
    """Combine finished shards into parts of about 128 MB, smaller if there would be fewer than ``at_least``.

    Args:
        out: The table.
        rows: For each shard, all of them finished, the number of rows read from the source.
        generation: The table's generation, part of the files' names.
        at_least: The number of parts to aim for at least.

    Raises:
        LbaeError: Files of shards are missing, or the storage still does not show them.
    """

    def missing() -> list[str]:
        return [f"{_LATENTS}{index}.parquet" for index in sorted(rows.keys() - finished_shards(out))]

    wait_until_visible(resolve(out) / WORK, missing)
    sizes = {index: size for index, size in _written(out, _LATENTS).items() if index in rows}
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
            rows={index: rows[index] for index in run},
        )
        for i, run in enumerate(runs)
    ]


def _written(out: str, what: str) -> dict[int, int]:
    """The size in bytes of each shard's file whose name begins with ``what``."""
    work = resolve(out) / WORK
    files = work.files() if work.exists() else []
    found = ((re.fullmatch(rf"{what}(\d+)\.parquet", name), info) for name, info in files)
    return {int(match[1]): info["size"] for match, info in found if match}


def assemble(out: str, plan: PartPlan) -> Part:
    """Write a part file, and its quarantine if there is any, from the files of its shards.

    Raises:
        LbaeError: The files of a shard hold more or fewer rows than were read from the source.
    """
    read, set_aside = [], []
    for index, rows in plan.rows.items():
        read.append(_read(out, f"{_LATENTS}{index}.parquet"))
        rest = rows - len(read[-1])
        # Row counts tell whether a shard has a quarantine; a listing may be out of date.
        if rest:
            set_aside.append(_read(out, f"{_QUARANTINE}{index}.parquet"))
            rest -= len(set_aside[-1])
        if rest:
            raise LbaeError(
                f"the files of shard {index} in {resolve(out) / WORK} hold {rows - rest} rows, but {rows}"
                f" were read from the source; run the job again with --overwrite"
            )
    latents = pa.concat_tables(read)
    digest = RowDigest(sum(rows_digest(table.schema) for table in read)).total
    files, bad = [], 0
    if len(latents):
        files.append(f"data/{plan.name}")
        groups = [min(_ROW_GROUP, len(latents) - first) for first in range(0, len(latents), _ROW_GROUP)]
        write_parquet(out, files[-1], with_digest(latents, digest), groups)
    if set_aside:
        quarantine = pa.concat_tables(set_aside)
        files.append(f"quarantine/{plan.name}")
        bad = len(quarantine)
        write_parquet(out, files[-1], quarantine)
    encoders = frozenset(
        tuple(t.schema.metadata[f"lbae.{name}".encode()].decode() for name in _ENCODER) for t in read
    )
    return Part(files=tuple(files), rows=len(latents), bad=bad, digest=digest, encoders=encoders)


def _read(out: str, name: str) -> pa.Table:
    """The rows of a file, which another node may have written a moment ago."""
    work = resolve(out) / WORK
    wait_until_visible(work, lambda: [] if (work / name).is_file() else [name])
    with open_parquet(work / name) as file:
        return file.read()


def publish_latents(
    output: Output, parts: list[Part], existing_table: LatentTable | None, result: dict[str, Any]
) -> dict[str, Any]:
    """Publish the table of these parts, appended to those of ``existing_table``.

    Raises:
        LbaeError: The latents were encoded at two precisions, so no single precision could reproduce all.
    """
    devices, precisions = ({encoder[i] for part in parts for encoder in part.encoders} for i in range(2))
    if existing_table:
        precisions.add(existing_table.precision)
    if len(precisions) != 1:
        raise LbaeError(
            f"latents of {output.uri} were encoded at {' and '.join(sorted(precisions))}; encode all of them"
            f" on one kind of device, with --overwrite"
        )
    rows, bad = sum(part.rows for part in parts), sum(part.bad for part in parts)
    files, before = [file for part in parts for file in part.files], 0
    if existing_table:
        before = existing_table.digest()
        rows, bad = rows + existing_table.manifest.rows, bad + existing_table.manifest.result["bad"]
        files += existing_table.manifest.files
    return output.publish(
        fingerprint=total_digest(parts, before).fingerprint(output.parents["model"]),
        rows=rows,
        files=files,
        result={
            "bad": bad,
            "latent_dim": output.config["latent_dim"],
            "device": ", ".join(sorted(devices)),
            "precision": precisions.pop(),
            **result,
        },
    )
