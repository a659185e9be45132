"""The latent table: Parquet part files of keys, bit-packed latents and the source's other columns.

Layout of the artifact, format version 1 (see docs/architecture.md):

- ``data/part-*.parquet``: the table, for any Parquet reader
- ``quarantine/part-*.parquet``: key, path and error of images that could not be decoded
- ``manifest.json``
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.utils import get_protocol
from jaxtyping import UInt8

from lbae.config import MOST_BITS, Precision
from lbae.core.latents.packing import check_packed, packed_width
from lbae.errors import UserError
from lbae.io.artifacts.manifest import FORMAT_VERSION, MANIFEST, Manifest, entry, option, read_manifest
from lbae.io.sources.names import split_name
from lbae.io.storage.digests import RowDigest, digest
from lbae.io.storage.hub import fetched, pinned
from lbae.io.storage.location import Location, resolve
from lbae.io.storage.parquet_file import open_parquet, texts
from lbae.io.storage.stored_file import damaged

KIND = "latent table"
_BATCH_ROWS = 2**15
_MOST_KEY_BYTES = 2**12
_THREADS = 16  # that read footers: an object store has a high latency but answers many requests at once
_FOLLOWED = {"file", "local", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf"}
_DIGEST = b"lbae.rows_digest"


def latent_rows(
    keys: pa.Array,
    packed: UInt8[np.ndarray, "K B"],
    columns: pa.Table,
    latent_dim: int,
    model_fingerprint: str,
    latent_grid: int = 1,
) -> pa.Table:
    """One batch as a table: key, latent, then the source's columns.

    With a ``latent_grid`` of G, a latent holds G x G cells, row by row; the bits of a cell lie together.
    """
    width = packed_width(latent_dim)
    latent = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(width), len(packed), [None, pa.py_buffer(np.ascontiguousarray(packed))]
    )
    rest = {name: columns[name] for name in columns.column_names}
    part = pa.table({"key": keys, "latent": latent, **rest})
    metadata = {
        "lbae.format_version": str(FORMAT_VERSION),
        "lbae.latent_dim": str(latent_dim),
        "lbae.latent_grid": str(latent_grid),
        "lbae.bit_order": "lsb",
        "lbae.model_fingerprint": model_fingerprint,
    }
    return with_digest(part.replace_schema_metadata(metadata), part_digest(part))


def with_digest(part: pa.Table, digest: int) -> pa.Table:
    """The part with the digest of its rows in its metadata."""
    return part.replace_schema_metadata({**part.schema.metadata, _DIGEST: f"{digest:x}"})


def rows_digest(metadata: Mapping[bytes, bytes]) -> int:
    """The digest of a part's rows, from the metadata of its schema."""
    return int(metadata[_DIGEST], 16)


def part_digest(part: pa.Table) -> int:
    """Digest of a part's rows, which covers all columns but ``image`` and does not depend on row order."""
    names = [name for name in part.column_names[2:] if name != "image"]
    rest = part.select(names).to_pylist() if names else [{}] * len(part)
    total = RowDigest()
    total.add(
        key.encode() + b"\0" + latent + json.dumps(row, sort_keys=True, default=str).encode()
        for key, latent, row in zip(part["key"].to_pylist(), part["latent"].to_pylist(), rest, strict=True)
    )
    return total.total


@dataclass(frozen=True, kw_only=True)
class RowGroup:
    """A row group of a part file."""

    part: str
    index: int
    rows: int
    stored_bytes: int


@dataclass(frozen=True, kw_only=True)
class LatentTable:
    """A finished latent table. Of a table on the Hub each process fetches the parts that it reads."""

    uri: str
    manifest: Manifest

    def __repr__(self) -> str:
        return f"LatentTable({self.uri!r}, rows={self.manifest.rows}, latent_dim={self.latent_dim})"

    @property
    def rows(self) -> int:
        """Number of rows, one per decoded image."""
        return self.manifest.rows

    @property
    def latent_dim(self) -> int:
        """Bits per latent, N."""
        return entry(self.uri, self.manifest, "config", "latent_dim", int)

    @property
    def model_fingerprint(self) -> str:
        """Fingerprint of the model that encoded the images."""
        return entry(self.uri, self.manifest, "parents", "model", str)

    @property
    def precision(self) -> Precision:
        """Precision at which the images were encoded."""
        return option(self.uri, self.manifest, "result", "precision", Precision)

    def made_from(self, name: Literal["model", "data"]) -> str:
        """URI of the model or of the images.

        Raises:
            UserError: An older version did not record it, or the table names a place that only a person may
                name: whoever wrote the table could make a job fetch from any server.
        """
        if name not in self.manifest.result:
            raise UserError(
                f"latent table {self.uri} was written by an older version, which did not record the location"
                f" of its {name}; give it, or encode again"
            )
        return self._followed(name, entry(self.uri, self.manifest, "result", name, str))

    def images(self) -> str | list[str]:
        """URI of the images, or ``NAME=URI`` of each source; raises the errors of :meth:`made_from`."""
        if not isinstance(recorded := self.manifest.result.get("data"), list):
            return self.made_from("data")
        named = [(name, self._followed("data", uri)) for name, uri in map(split_name, map(str, recorded))]
        return [f"{name}={uri}" if name else uri for name, uri in named]

    def _followed(self, name: str, place: str) -> str:
        if "::" in place or get_protocol(place) not in _FOLLOWED:
            raise UserError(
                f"latent table {self.uri} names {place!r:.200} as its {name}; followed without being asked:"
                f" {', '.join(sorted(_FOLLOWED))}; give it"
            )
        return place

    @property
    def parts(self) -> list[str]:
        """Names of the part files with latents, without the quarantine."""
        return [name for name in self.manifest.files if name.startswith("data/")]

    def keys(self, name: str) -> Iterator[pa.StringArray]:
        """Yield the keys of one file, a part or one of the quarantine, in batches of at most 2**12.

        Raises:
            UserError: The file is damaged, has another model, or has a key of more than 4 KiB, or twice in a
                batch.
        """
        location = fetched(self.uri, [name]) / name
        with open_parquet(location) as file:
            if name in self.parts:
                self._check(location, file)
            for keys in texts(location, file, "key"):
                longest = pc.max(pc.binary_length(keys.dictionary)).as_py() or 0
                if longest > _MOST_KEY_BYTES:
                    raise damaged(
                        location, f"it has a key of {longest} bytes; allowed: at most {_MOST_KEY_BYTES}"
                    )
                if pc.count_distinct(keys.indices).as_py() < len(keys):
                    raise damaged(location, "it has a key more than once")
                yield keys.dictionary_decode()

    def digest(self) -> int:
        """The digest of all rows; raises UserError if an older version wrote a part, without a digest."""
        with ThreadPoolExecutor(_THREADS) as pool:
            return RowDigest(sum(pool.map(self._part_digest, self.parts))).total

    def _part_digest(self, part: str) -> int:
        with self._open(part) as file:
            if not (written := self._written_digest(part, file.schema_arrow)):
                raise UserError(f"{self.uri}/{part} has no digest of its rows; encode the images again")
            return int(written, 16)

    def schema(self) -> pa.Schema:
        """Columns of the table; raises UserError if it has no part."""
        if not self.parts:
            raise damaged(resolve(self.uri) / MANIFEST, "it names no part with latents")
        with self._open(self.parts[0]) as file:
            return file.schema_arrow

    def source_columns(self) -> pa.Schema:
        """The source's columns without the image and its path; the table must not be empty."""
        own = ("key", "latent", "path", "image")
        return pa.schema(
            [pa.field(field.name, field.type) for field in self.schema() if field.name not in own]
        )

    def read(self, part: str, columns: list[str] | None = None) -> pa.Table:
        """One part; raises UserError if it is damaged or has another latent width or model."""
        with self._open(part) as file:
            return self._with_keys(part, file.read(columns=columns))

    def latent(self, part: str, group: int, row: int) -> UInt8[np.ndarray, "B"]:
        """The packed latent of one row, which the part must have."""
        with self._open(part) as file:
            return packed_latents(file.read_row_group(group, columns=["latent"]))[row]

    def row(self, part: str, group: int, row: int) -> dict[str, Any]:
        """One row, without its latent and its image; raises UserError if the part has no such row."""
        with self._open(part) as file:
            metadata = file.metadata
            if not (0 <= group < metadata.num_row_groups and 0 <= row < metadata.row_group(group).num_rows):
                raise damaged(resolve(self.uri) / part, f"it has no row {row} in a row group {group}")
            columns = [name for name in file.schema_arrow.names if name not in ("latent", "image")]
            return file.read_row_group(group, columns=columns).slice(row, 1).to_pylist()[0]

    def footer(self, part: str, columns: Sequence[str]) -> tuple[list[RowGroup], str]:
        """The row groups of a part, each with the stored size of ``columns``, and the digest of its rows.

        A part of an older version has no digest of its rows; a digest of its table and name stands in for it.
        """
        with self._open(part) as file:
            groups = []
            for index in range(file.num_row_groups):
                group = file.metadata.row_group(index)
                chunks = (group.column(i) for i in range(group.num_columns))
                stored = sum(c.total_compressed_size for c in chunks if c.path_in_schema in columns)
                groups.append(RowGroup(part=part, index=index, rows=group.num_rows, stored_bytes=stored))
            written = self._written_digest(part, file.schema_arrow)
        return groups, written or digest(self.manifest.fingerprint.encode(), part.encode())

    def batches(self, groups: Sequence[RowGroup], columns: list[str]) -> Iterator[pa.Table]:
        """Yield the rows of some row groups, in batches of at most 2**15.

        Raises:
            UserError: A part is damaged or has another latent width or model, or a latent has padding bits
                set.
        """
        for part, run in itertools.groupby(groups, key=lambda group: group.part):
            with self._open(part) as file:
                for batch in file.iter_batches(
                    _BATCH_ROWS, row_groups=[group.index for group in run], columns=columns
                ):
                    rows = self._with_keys(part, pa.Table.from_batches([batch]))
                    try:
                        check_packed(packed_latents(rows), self.latent_dim)
                    except ValueError as error:
                        raise UserError(f"{resolve(self.uri) / part} cannot be used: {error}") from error
                    yield rows

    @contextmanager
    def _open(self, part: str) -> Iterator[pq.ParquetFile]:
        location = fetched(self.uri, [part]) / part
        with open_parquet(location) as file:
            self._check(location, file)
            yield file

    def _with_keys(self, part: str, rows: pa.Table) -> pa.Table:
        """The rows; UserError if their keys, if read, are no text."""
        if "key" in rows.column_names:
            kind, missing = rows["key"].type, rows["key"].null_count
            if missing or kind not in (pa.string(), pa.large_string()):
                raise damaged(
                    resolve(self.uri) / part,
                    f"its keys have the type {kind}, and {missing} are missing; allowed: a text per row",
                )
        return rows

    def _written_digest(self, part: str, schema: pa.Schema) -> str:
        """The digest of a part's rows in its metadata, in hex; empty if there is none."""
        found = (schema.metadata or {}).get(_DIGEST, b"").decode(errors="replace")
        if not re.fullmatch(r"[0-9a-f]{0,64}", found):
            raise damaged(resolve(self.uri) / part, f"the digest of its rows is {found!r:.100}")
        return found

    def _check(self, location: Location, file: pq.ParquetFile) -> None:
        schema, rows = file.schema_arrow, file.metadata.num_rows
        found = (schema.metadata or {}).get(b"lbae.model_fingerprint", b"").decode(errors="replace")
        if found != self.model_fingerprint:
            raise UserError(
                f"{location} holds latents of model {found[:100] or 'unknown'}; the table's model is"
                f" {self.model_fingerprint[:100]}"
            )
        kinds = [field.type for field in schema if field.name == "latent"]
        if kinds != [pa.binary(packed_width(self.latent_dim))]:
            raise UserError(
                f"{location} has latents of type {', '.join(map(str, kinds)) or 'none'}; the table's have"
                f" {self.latent_dim} bits"
            )
        if rows > self.manifest.rows:
            raise damaged(location, f"it has {rows} rows, more than the {self.manifest.rows} of its table")


def open_latent_table(uri: str) -> LatentTable:
    """The finished latent table at a URI; raises UserError if its manifest lacks what every reader needs."""
    uri = pinned(uri)
    table = LatentTable(uri=uri, manifest=read_manifest(uri, KIND))
    if not (table.model_fingerprint and 1 <= table.latent_dim <= MOST_BITS):
        raise damaged(
            resolve(uri) / MANIFEST, f"config.latent_dim is {table.latent_dim}; allowed: 1 to {MOST_BITS}"
        )
    return table


def packed_latents(table: pa.Table) -> UInt8[np.ndarray, "K B"]:
    """The ``latent`` column as bytes, without a copy if it is a single chunk; ValueError if one is null."""
    if table["latent"].null_count:
        raise ValueError(f"{table['latent'].null_count} of {len(table)} rows have no latent")
    column = table["latent"].combine_chunks()
    width = column.type.byte_width
    flat = np.frombuffer(column.buffers()[1], dtype=np.uint8) if len(column) else np.empty(0, dtype=np.uint8)
    return flat[column.offset * width : (column.offset + len(column)) * width].reshape(-1, width)
