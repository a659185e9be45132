"""Image sources as a deterministic plan of shards: Parquet image tables, WebDataset tars, or folders of image files.

A shard is a run of rows that one task reads. The plan depends on the source alone, so every worker and every rerun cuts it
the same way, and a row's key is unique by construction.
"""

import hashlib
import itertools
import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, Float64, UInt64

from lbae.errors import LbaeError, UserError
from lbae.io import tars
from lbae.io.artifact import BEGUN, MANIFEST, digest_json, read_manifest
from lbae.io.storage import Location, readable, resolve

ROWS_PER_SHARD = 2048
BYTES_PER_SHARD = 256 * 2**20
_BATCH_ROWS = 256

Kind = Literal["table", "tars", "files"]

_Listed = dict[str, dict[str, Any]]  # what the filesystem says of files, by their names below the root


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Rows of one Parquet file (whole row groups), samples of one tar, or a run of image files."""

    root: str
    rows: int
    size: int
    files: tuple[str, ...]
    index: int = 0
    start: int = 0
    row_groups: tuple[int, ...] = ()
    first_row: int = 0
    samples: tuple[tars.Sample, ...] = ()
    classes: bool = False
    left_out: frozenset[int] = frozenset()

    @property
    def wanted(self) -> int:
        """Rows that are read."""
        return self.rows - len(self.left_out)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A planned image source; the fingerprint covers names, sizes and times of its files, not their content."""

    uri: str
    fingerprint: str
    shards: tuple[Shard, ...]

    @property
    def rows(self) -> int:
        """Images, decodable or not."""
        return sum(shard.rows for shard in self.shards)


def plan(uri: str, kind: Kind | None = None) -> Source:
    """Plan a source: a path, a URI, or ``torchvision:NAME``; of another kind than its files' names say if ``kind`` is given.

    UserError when it is missing, empty, unfinished or a table without an ``image`` column.
    """
    if uri.startswith("torchvision:"):
        from lbae.io import datasets  # which imports torchvision, and that takes seconds

        uri = datasets.as_image_table(uri)
    location = readable(uri, "data")
    if (location / BEGUN).exists():
        read_manifest(uri)
    listed = dict([(location.name, location.fs.info(location.path))] if location.is_file() else location.files())
    if (location / MANIFEST).exists():  # of an image table, whose quarantine holds no images
        listed = {name: listed[name] for name in listed if name != MANIFEST and not name.startswith("quarantine/")}
    root = posixpath.dirname(str(location)) if location.is_file() else str(location)
    recognised, found = _recognised(listed, kind)
    shards = _numbered(_SHARDS[recognised](root, found))
    if not shards:
        raise UserError(f"data {uri} holds no images (looked for Parquet files, tars and image files, also in subfolders)")
    stamps = [[name, info.get("size"), str(info.get("ETag") or info.get("mtime") or "")] for name, info in found.items()]
    return Source(uri=str(location), fingerprint=digest_json(stamps), shards=shards)


def _recognised(listed: _Listed, asked: Kind | None) -> tuple[Kind, _Listed]:
    """The kind of a source and the files that it is made of: if any is Parquet those, else tars, else all."""
    kinds: dict[str, Kind] = {".parquet": "table", ".tar": "tars"}
    found: dict[Kind, _Listed] = {"table": {}, "tars": {}, "files": {}}
    for name, info in listed.items():
        found[kinds.get(posixpath.splitext(name)[1], "files")][name] = info
    first: Kind = next((kind for kind in found if found[kind]), "files")
    kind = asked or first
    return kind, found[kind] or listed


def _numbered(shards: Iterator[Shard]) -> tuple[Shard, ...]:
    """The shards with their numbers and their first rows in the source."""
    found = list(shards)
    starts = itertools.accumulate((shard.rows for shard in found), initial=0)
    return tuple(replace(shard, index=i, start=start) for i, (shard, start) in enumerate(zip(found, starts, strict=False)))


def _table_shards(root: str, listed: _Listed) -> Iterator[Shard]:
    for name in listed:
        metadata = _footer(root, name)
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        rows, sizes = [group.num_rows for group in groups], [group.total_byte_size for group in groups]
        for first, last in runs(rows, sizes, ROWS_PER_SHARD, BYTES_PER_SHARD):
            yield Shard(
                root=root,
                rows=sum(rows[first:last]),
                size=sum(sizes[first:last]),
                files=(name,),
                row_groups=tuple(range(first, last)),
                first_row=sum(rows[:first]),
            )


def runs(rows: Sequence[int], sizes: Sequence[int], most_rows: int, most_bytes: int) -> Iterator[tuple[int, int]]:
    """First and last + 1 of runs of items that stay within a number of rows and of bytes, as far as single items do."""
    first = row = size = 0
    for index, (more, bytes_) in enumerate(zip(rows, sizes, strict=True)):
        if index > first and (row + more > most_rows or size + bytes_ > most_bytes):
            yield first, index
            first, row, size = index, 0, 0
        row, size = row + more, size + bytes_
    if row:
        yield first, len(rows)


def _footer(root: str, name: str) -> pq.FileMetaData:
    location = resolve(root) / name
    try:
        with location.open() as file:
            parquet = pq.ParquetFile(file)
            schema = parquet.schema_arrow
            metadata = parquet.metadata
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{location} cannot be read as Parquet: {error}") from error
    field = schema.field("image") if "image" in schema.names else None
    if field is None or not pa.types.is_struct(field.type) or field.type.get_field_index("bytes") < 0:
        raise UserError(f"{location} has no column 'image' of struct{{bytes, path}} (columns: {', '.join(schema.names)})")
    return metadata


def _tar_shards(root: str, listed: _Listed) -> Iterator[Shard]:
    for name in listed:
        samples = tars.samples(resolve(root) / name)
        classes = any(sample.label for sample in samples)
        sizes = [sample.image.size if sample.image else 0 for sample in samples]
        for first, last in runs([1] * len(samples), sizes, ROWS_PER_SHARD, BYTES_PER_SHARD):
            some = tuple(samples[first:last])
            size = sum(sizes[first:last])
            yield Shard(root=root, rows=len(some), size=size, files=(name,), samples=some, classes=classes)


def _file_shards(root: str, listed: _Listed) -> Iterator[Shard]:
    names = list(listed)
    classes = all("/" in name for name in names)
    sizes = [int(info.get("size") or 0) for info in listed.values()]
    for first, last in runs([1] * len(names), sizes, ROWS_PER_SHARD, BYTES_PER_SHARD):
        size = sum(sizes[first:last])
        yield Shard(root=root, rows=last - first, size=size, files=tuple(names[first:last]), classes=classes)


_SHARDS: dict[Kind, Callable[[str, _Listed], Iterator[Shard]]] = {
    "table": _table_shards,
    "tars": _tar_shards,
    "files": _file_shards,
}


def read_batches(shard: Shard) -> Iterator[pa.Table]:
    """The rows of a shard in order, a few hundred at a time, as files may be large.

    Columns ``key`` (string), ``bytes`` (binary, null where a file vanished), ``path``, then the other columns.
    """
    root, keys = resolve(shard.root), shard_keys(shard)
    if shard.row_groups:
        yield from _table_batches(root / shard.files[0], shard, keys)
        return
    wanted = [row for row in range(shard.rows) if row not in shard.left_out]
    for first in range(0, len(wanted), _BATCH_ROWS):
        rows = wanted[first : first + _BATCH_ROWS]
        columns: dict[str, Any] = {"key": keys.take(rows)}
        if shard.samples:
            some = tuple(shard.samples[row] for row in rows)
            data, labels = tars.read(root / shard.files[0], some, shard.classes)
            columns |= {"bytes": pa.array(data, pa.binary())}
            columns["path"] = pa.array([sample.image and sample.image.name for sample in some], pa.string())
        else:
            names = [shard.files[row] for row in rows]
            columns["bytes"] = pa.array([_bytes_or_none(root / name) for name in names], pa.binary())
            columns["path"] = pa.array(names, pa.string())
            labels = [name.split("/", 1)[0] for name in names]
        yield pa.table(columns | ({"label": labels} if shard.classes else {}))


def _table_batches(location: Location, shard: Shard, keys: pa.Array) -> Iterator[pa.Table]:
    first = 0
    try:
        with location.open() as file:
            for batch in pq.ParquetFile(file).iter_batches(_BATCH_ROWS, row_groups=list(shard.row_groups)):
                table = pa.Table.from_batches([batch])
                image = table["image"].combine_chunks()
                has_path = image.type.get_field_index("path") >= 0
                columns = {
                    "key": keys[first : first + len(table)],
                    "bytes": pc.struct_field(image, "bytes"),
                    "path": pc.struct_field(image, "path") if has_path else pa.nulls(len(table), pa.string()),
                }
                rest = {name: table[name] for name in table.column_names if name not in ("image", *columns)}
                wanted = pa.array([row not in shard.left_out for row in range(first, first + len(table))])
                yield pa.table(columns | rest).filter(wanted) if shard.left_out else pa.table(columns | rest)
                first += len(table)
    except (pa.ArrowException, OSError) as error:
        raise LbaeError(f"{location} cannot be read as Parquet: {error}") from error


def read_shard(shard: Shard) -> pa.Table:
    """All rows of :func:`read_batches`."""
    return pa.concat_tables(read_batches(shard))


def without(shards: tuple[Shard, ...], known: pa.ChunkedArray) -> tuple[Shard, ...]:
    """The shards without the rows of these keys; both sets of keys must fit into memory."""
    return _leaving_out(shards, _is_among(shards, known))


def only(shards: tuple[Shard, ...], keys: pa.ChunkedArray) -> tuple[Shard, ...]:
    """The shards with no rows but those of these keys."""
    return _leaving_out(shards, ~_is_among(shards, keys))


def _is_among(shards: tuple[Shard, ...], keys: pa.ChunkedArray) -> Bool[np.ndarray, "K"]:
    every = pa.chunked_array([shard_keys(shard) for shard in shards], pa.string())
    return pc.is_in(every, value_set=keys.combine_chunks()).to_numpy()


def _leaving_out(shards: tuple[Shard, ...], rows: Bool[np.ndarray, "K"]) -> tuple[Shard, ...]:
    each = np.split(rows, np.cumsum([shard.rows for shard in shards])[:-1])
    rest = [
        replace(shard, left_out=frozenset(np.flatnonzero(some).tolist())) for shard, some in zip(shards, each, strict=True)
    ]
    return tuple(shard for shard in rest if shard.wanted)


def shard_keys(shard: Shard) -> pa.Array:
    """The keys of a shard's rows, known without reading it."""
    if shard.samples:
        return pa.array([f"{shard.files[0]}:{sample.name}" for sample in shard.samples])
    if not shard.row_groups:
        return pa.array(shard.files, pa.string())
    return pa.array([f"{shard.files[0]}:{row}" for row in range(shard.first_row, shard.first_row + shard.rows)])


def _bytes_or_none(location: Location) -> bytes | None:
    try:
        return location.read_bytes()
    except FileNotFoundError:
        return None


def row_digests(rows: pa.Table) -> UInt64[np.ndarray, "K"]:
    """A number for the bytes of every image of :func:`read_shard`, by which equal files are found."""
    digests = (hashlib.sha256(data or b"").digest() for data in rows["bytes"].to_pylist())
    return np.fromiter((int.from_bytes(d[:8]) for d in digests), dtype=np.uint64, count=len(rows))


def spread(shards: tuple[Shard, ...], rows: int) -> tuple[Shard, ...]:
    """Shards evenly spaced over a source that hold about so many rows, or all."""
    total = sum(shard.rows for shard in shards)
    count = max(1, len(shards) * rows // max(1, total))
    return tuple(shards[i * len(shards) // count] for i in range(count)) if count < len(shards) else shards


def key_fractions(keys: pa.ChunkedArray) -> Float64[np.ndarray, "K"]:
    """A number in [0, 1) for every key, uniform and always the same: rows below p are a subset with the share p."""
    digests = (hashlib.sha256(key.encode()).digest() for key in keys.to_pylist())
    return np.fromiter((int.from_bytes(d[:8]) / 2**64 for d in digests), dtype=np.float64, count=len(keys))


def held_out(keys: pa.Array | pa.ChunkedArray) -> Bool[np.ndarray, "K"]:
    """Rows that every stage keeps for validation: sha256(key) mod 10 = 0."""
    digests = (hashlib.sha256(key.encode()).digest() for key in keys.to_pylist())
    return np.fromiter((int.from_bytes(d) % 10 == 0 for d in digests), dtype=bool, count=len(keys))
