"""The latent table: Parquet part files of keys, bit-packed latents and the source's other columns.

Layout of the artifact: ``data/part-*.parquet`` (the table, for any Parquet reader), ``quarantine/part-*.parquet`` (images
that could not be decoded: key, path, error), ``manifest.json``. Format version 1; see docs/architecture.md.
"""

import io
import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8

from lbae.core.packing import packed_width
from lbae.errors import UserError
from lbae.io.artifact import FORMAT_VERSION, Manifest, RowDigest, read_manifest
from lbae.io.storage import resolve

KIND = "latent table"


def write_parquet(uri: str, name: str, table: pa.Table) -> None:
    """Write one part file under its final name."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    (resolve(uri) / name).write_bytes(buffer.getvalue())


def latent_part(
    keys: pa.Array, packed: UInt8[np.ndarray, "K B"], columns: pa.Table, latent_dim: int, model_fingerprint: str
) -> pa.Table:
    """The table of one part: key, latent, then ``columns`` as they are."""
    width = packed_width(latent_dim)
    latent = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(width), len(packed), [None, pa.py_buffer(np.ascontiguousarray(packed))]
    )
    metadata = {
        "lbae.format_version": str(FORMAT_VERSION),
        "lbae.latent_dim": str(latent_dim),
        "lbae.bit_order": "lsb",
        "lbae.model_fingerprint": model_fingerprint,
    }
    taken = {"key": keys, "latent": latent}
    rest = {name: columns[name] for name in columns.column_names if name not in taken}
    return pa.table({**taken, **rest}).replace_schema_metadata(metadata)


def part_digest(part: pa.Table) -> int:
    """Sum of the row hashes of a part: all columns count, the order of the rows does not."""
    names = part.column_names[2:]
    rest = part.select(names).to_pylist() if names else [{}] * len(part)
    digest = RowDigest()
    digest.add(
        key.encode() + b"\0" + latent + json.dumps(row, sort_keys=True, default=str).encode()
        for key, latent, row in zip(part["key"].to_pylist(), part["latent"].to_pylist(), rest, strict=True)
    )
    return digest.total


@dataclass(frozen=True, kw_only=True)
class LatentTable:
    """A finished latent table: its manifest and its part files."""

    uri: str
    manifest: Manifest

    @property
    def latent_dim(self) -> int:
        """N."""
        return int(self.manifest.config["latent_dim"])

    @property
    def model_fingerprint(self) -> str:
        """The model that made the latents."""
        return self.manifest.parents["model"]

    @property
    def parts(self) -> list[str]:
        """Names of the part files that hold latents."""
        return [name for name in self.manifest.files if name.startswith("data/")]

    def schema(self) -> pa.Schema:
        """Columns of the table."""
        with (resolve(self.uri) / self.parts[0]).open() as file:
            return pq.read_schema(file)

    def read(self, part: str, columns: list[str] | None = None) -> pa.Table:
        """One part. UserError when it is damaged, of another width or of another model."""
        location = resolve(self.uri) / part
        try:
            with location.open() as file:
                table = pq.read_table(file, columns=columns)
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{location} cannot be read as Parquet: {error}") from error
        found = (table.schema.metadata or {}).get(b"lbae.model_fingerprint", b"").decode()
        if found != self.model_fingerprint:
            raise UserError(
                f"{location} holds latents of model {found or 'unknown'}; the table is of {self.model_fingerprint}"
            )
        if "latent" in table.column_names and table.schema.field("latent").type != pa.binary(packed_width(self.latent_dim)):
            raise UserError(
                f"{location} has latents of type {table.schema.field('latent').type}, not N = {self.latent_dim} bits"
            )
        return table


def open_latent_table(uri: str) -> LatentTable:
    """A finished latent table by URI."""
    return LatentTable(uri=uri, manifest=read_manifest(uri, KIND))


def packed_latents(table: pa.Table) -> UInt8[np.ndarray, "K B"]:
    """The ``latent`` column as bytes, without a copy where it is one chunk."""
    column = table["latent"].combine_chunks()
    width = column.type.byte_width
    flat = np.frombuffer(column.buffers()[1], dtype=np.uint8) if len(column) else np.empty(0, dtype=np.uint8)
    return flat[column.offset * width : (column.offset + len(column)) * width].reshape(-1, width)
