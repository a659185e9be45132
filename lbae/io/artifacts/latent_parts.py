"""Writing a latent table in parts: each is a run of the source's shards, and one actor writes it once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lbae.errors import LbaeError, UserError
from lbae.io.artifacts.latent_table import (
    LatentTable,
    open_latent_table,
    rows_digest,
    with_digest,
)
from lbae.io.artifacts.manifest import Manifest, changes
from lbae.io.artifacts.model_artifact import check_model
from lbae.io.artifacts.output import Output
from lbae.io.artifacts.written_part import Part, finished_footer, total_digest
from lbae.io.sources.listing import look_at_each
from lbae.io.sources.plan import SHARD_LIMITS, runs
from lbae.io.sources.source import Shard
from lbae.io.storage.digests import RowDigest
from lbae.io.storage.location import resolve
from lbae.io.storage.parquet_file import write_parquet

# Enough parts for hundreds of actors, but no small ones, because every reader opens every file. A part that a
# kill ends is encoded again: the largest takes five minutes, at 4.4 ms per image on one core.
_PARTS = 512
_LEAST_ROWS, _MOST_ROWS = 2**11, 2**16
_MOST_BYTES = 256 * 2**20  # an actor holds a part in memory until it writes it
_MOST_FILES = 400_000  # two per part; their names take 15 of the 16 MiB that a manifest may have
PART_LIMITS = {
    **SHARD_LIMITS,
    "parts": _PARTS,
    "least_rows": _LEAST_ROWS,
    "most_rows": _MOST_ROWS,
    "most_bytes": _MOST_BYTES,
}
"""Part of the resume key: finished parts fit only these sizes."""
_BAD, _DEVICE, _PRECISION = b"lbae.bad", b"lbae.device", b"lbae.precision"


@dataclass(frozen=True, kw_only=True)
class PartPlan:
    """A part to write: the name of its files, and the shards whose rows it holds, in the source's order."""

    name: str
    shards: tuple[Shard, ...]

    def __str__(self) -> str:
        return f"{self.name}, which begins with {self.shards[0]}"

    @property
    def rows(self) -> int:
        """The number of rows that are read."""
        return sum(shard.rows_to_read for shard in self.shards)

    @property
    def data(self) -> str:
        """The file of the latents. It is written last: the part is finished once it exists."""
        return f"data/{self.name}"

    @property
    def quarantine(self) -> str:
        """The file of the images that cannot be decoded, if there are any."""
        return f"quarantine/{self.name}"


def open_for_append(out: str, model: Manifest, config: dict[str, Any]) -> LatentTable:
    """The table to append to; raises UserError if its model or its options differ."""
    table = open_latent_table(out)
    check_model(f"latent table {out}", table.model_fingerprint, model)
    if changed := changes(table.manifest.config, config):
        raise UserError(f"{out} was written with different options ({changed}); append with the same ones")
    return table


def rows_per_part(rows: int) -> int:
    """The most rows of a part, of ``rows`` rows in all."""
    return min(max(rows // _PARTS, _LEAST_ROWS), _MOST_ROWS)


def plan_latent_parts(
    shards: Sequence[Shard], keep_images: bool, extends: Manifest | None = None
) -> list[PartPlan]:
    """Divide shards into the parts of a table's next generation, after that of the manifest ``extends``.

    The division depends on the shards alone, so a job can resume on any cluster. A part has at most
    :func:`rows_per_part` rows, and about 256 MB of the columns that it copies from the source; with
    ``keep_images`` the images count too.

    Raises:
        UserError: The table would have too many parts.
    """
    generation, named = (extends.generation + 1, len(extends.files)) if extends else (1, 0)
    rows = [shard.rows_to_read for shard in shards]
    sizes = [shard.size if keep_images else shard.column_bytes for shard in shards]
    cuts = list(runs(rows, sizes, rows_per_part(sum(rows)), _MOST_BYTES))
    if named + 2 * len(cuts) > _MOST_FILES:
        raise UserError(
            f"the table would have {named + 2 * len(cuts)} files, two per part; allowed: {_MOST_FILES}, which"
            f" is about 13 billion images without their bytes; encode the images into several tables"
        )
    digits = max(5, len(str(len(cuts) - 1)))  # readers sort the files by name
    return [
        PartPlan(name=f"part-{generation:03d}-{i:0{digits}d}.parquet", shards=tuple(shards[first:last]))
        for i, (first, last) in enumerate(cuts)
    ]


def write_latent_part(
    out: str, plan: PartPlan, latents: Sequence[pa.Table], quarantine: pa.Table, encoder: tuple[str, str]
) -> Part:
    """Write the files of a part; ``encoder`` is the device and the precision of its latents.

    All latents are one row group. A part without any gets an empty file, which the manifest does not name.

    Raises:
        LbaeError: There are more or fewer rows than planned; nothing is written.
    """
    rows = pa.concat_tables(latents)
    digest = RowDigest(sum(rows_digest(table.schema.metadata) for table in latents)).total
    part = _part(out, plan, len(rows), len(quarantine), digest, encoder)
    if len(quarantine):
        write_parquet(out, plan.quarantine, quarantine)
    facts = {_BAD: str(len(quarantine)), _DEVICE: encoder[0], _PRECISION: encoder[1]}
    metadata = {**with_digest(rows, digest).schema.metadata, **facts}
    write_parquet(out, plan.data, rows.replace_schema_metadata(metadata))
    return part


def finished_part(out: str, plan: PartPlan) -> Part | None:
    """The part if an earlier process has written it; raises LbaeError if rows are missing."""
    if not (found := finished_footer(resolve(out) / plan.data)):
        return None
    rows, metadata = found
    bad, device, precision = (metadata[name].decode() for name in (_BAD, _DEVICE, _PRECISION))
    return _part(out, plan, rows, int(bad), rows_digest(metadata), (device, precision))


def finished_parts(out: str, plans: Sequence[PartPlan]) -> dict[str, Part]:
    """The parts that earlier processes have written, by name, as far as the folder's listing shows them."""
    folder = resolve(out) / "data"
    listed = folder.names() if folder.exists() else set()
    by_name = {plan.name: plan for plan in plans if plan.name in listed}
    found = look_at_each(str(folder), by_name, lambda file: finished_part(out, by_name[file.name]))
    return {name: part for name, part in zip(by_name, found, strict=True) if part}


def _part(out: str, plan: PartPlan, rows: int, bad: int, digest: int, encoder: tuple[str, str]) -> Part:
    files = (*((plan.data,) if rows else ()), *((plan.quarantine,) if bad else ()))
    part = Part(files=files, rows=rows, bad=bad, digest=digest, encoder=encoder)
    return part.checked(resolve(out) / plan.data, plan.rows)


def publish_latents(
    output: Output, parts: list[Part], existing_table: LatentTable | None, result: dict[str, Any]
) -> dict[str, Any]:
    """Publish the table of these parts, appended to those of ``existing_table``.

    Raises:
        LbaeError: The latents were encoded at two precisions, so no single precision could reproduce all.
    """
    devices, precisions = ({part.encoder[i] for part in parts} for i in range(2))
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
