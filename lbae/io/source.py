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
from jaxtyping import Bool, Float64, UInt64

from lbae.errors import UserError
from lbae.io import tables, tars
from lbae.io.artifact import BEGUN, MANIFEST, WORK, digest_json, read_manifest
from lbae.io.columns import check_fit, laid_out, together
from lbae.io.images import image_size
from lbae.io.storage import Location, readable, resolve

ROWS_PER_SHARD = 2048
BYTES_PER_SHARD = 256 * 2**20
CUT = {"shard_rows": ROWS_PER_SHARD, "shard_bytes": BYTES_PER_SHARD, "pieces_a_group": tables.PIECES}
"""How sources are cut: what is finished of a shard is of no use to a version that cuts otherwise."""
_BATCH_ROWS = 256
_LOOKED_AT = 16

Kind = Literal["table", "tars", "files"]

_Listed = dict[str, dict[str, Any]]  # what the filesystem says of files, by their names below the root


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Rows of one Parquet file (of its row groups, but for the first ``skip``), samples of one tar, or a run of image files.

    ``columns`` are those that its rows have beside key, bytes and path: the same in all shards of a source.
    """

    root: str
    rows: int
    size: int
    files: tuple[str, ...]
    columns: pa.Schema
    index: int = 0
    start: int = 0
    row_groups: tuple[int, ...] = ()
    skip: int = 0
    first_row: int = 0
    samples: tuple[tars.Sample, ...] = ()
    left_out: frozenset[int] = frozenset()

    @property
    def wanted(self) -> int:
        """Rows that are read."""
        return self.rows - len(self.left_out)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A planned image source.

    The fingerprint covers names, sizes and times of its files, not their content, and their kind where their names do not
    say it.
    """

    uri: str
    fingerprint: str
    shards: tuple[Shard, ...]

    @property
    def rows(self) -> int:
        """Images, decodable or not."""
        return sum(shard.rows for shard in self.shards)


def plan(uri: str, kind: Kind | None = None) -> Source:
    """Plan a source: a path, a URI, or ``torchvision:NAME``; of another kind than its files' names say if ``kind`` is given.

    UserError when it is missing or unfinished, holds no images, is a table without an ``image`` column, or its files have
    columns that do not fit together.
    """
    if uri.startswith("torchvision:"):
        from lbae.io import datasets  # which imports torchvision, and that takes seconds

        uri = datasets.as_image_table(uri)
    location = readable(uri, "data")
    if (location / BEGUN).exists():
        read_manifest(uri)
    listed = dict([(location.name, location.fs.info(location.path))] if location.is_file() else location.files())
    if (location / MANIFEST).exists():  # of an image table, whose quarantine holds no images
        apart = (MANIFEST, "quarantine/", f"{WORK}/")
        listed = {name: listed[name] for name in listed if not name.startswith(apart)}
    root = posixpath.dirname(str(location)) if location.is_file() else str(location)
    named, recognised, found = _recognised(listed, kind)
    shards = _numbered(_SHARDS[recognised](root, found)) if kind or _holds_images(root, named, found) else ()
    if not shards:
        raise UserError(f"data {uri} holds no images (looked for Parquet files, tars and image files, also in subfolders)")
    stamps = [[name, info.get("size"), str(info.get("ETag") or info.get("mtime") or "")] for name, info in found.items()]
    fingerprint = digest_json(stamps if recognised == named else [recognised, stamps])
    columns = together((shard.columns for shard in shards), uri)
    alike = tuple(replace(shard, columns=columns) for shard in shards)
    return Source(uri=str(location), fingerprint=fingerprint, shards=alike)


def _recognised(listed: _Listed, asked: Kind | None) -> tuple[Kind, Kind, _Listed]:
    """The kind of a source by its files' names, the kind it is read as, and the files that it is then made of.

    If any is Parquet those, else tars, else all.
    """
    kinds: dict[str, Kind] = {".parquet": "table", ".tar": "tars"}
    found: dict[Kind, _Listed] = {"table": {}, "tars": {}, "files": {}}
    for name, info in listed.items():
        found[kinds.get(posixpath.splitext(name)[1], "files")][name] = info
    first: Kind = next((kind for kind in found if found[kind]), "files")
    kind = asked or first
    return (kind if found[kind] else first), kind, found[kind] or listed


def _holds_images(root: str, kind: Kind, listed: _Listed) -> bool:
    """Whether files may be images: one is named like an image, or one of the first is one."""
    if kind != "files" or any(name.lower().endswith(tars.IMAGES) for name in listed):
        return True
    return any(image_size(_bytes_or_none(resolve(root) / name)) for name in itertools.islice(listed, _LOOKED_AT))


def fitted(shards: tuple[Shard, ...], columns: pa.Schema, out: str) -> tuple[Shard, ...]:
    """The shards with the columns of the table that their rows are added to; UserError when theirs do not fit those."""
    check_fit(shards[0].columns, columns, out)
    return tuple(replace(shard, columns=columns) for shard in shards)


def _numbered(shards: Iterator[Shard]) -> tuple[Shard, ...]:
    """The shards with their numbers and their first rows in the source."""
    found = list(shards)
    starts = itertools.accumulate((shard.rows for shard in found), initial=0)
    return tuple(replace(shard, index=i, start=start) for i, (shard, start) in enumerate(zip(found, starts, strict=False)))


def _table_shards(root: str, listed: _Listed) -> Iterator[Shard]:
    for name in listed:
        footer = tables.footer(resolve(root) / name)
        pieces = list(footer.pieces(ROWS_PER_SHARD, BYTES_PER_SHARD))
        rows, sizes = [piece.rows for piece in pieces], [piece.size for piece in pieces]
        for first, last in runs(rows, sizes, ROWS_PER_SHARD, BYTES_PER_SHARD):
            yield Shard(
                root=root,
                rows=sum(rows[first:last]),
                size=sum(sizes[first:last]),
                files=(name,),
                columns=footer.columns,
                row_groups=tuple(dict.fromkeys(piece.group for piece in pieces[first:last])),
                skip=pieces[first].skip,
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


def _tar_shards(root: str, listed: _Listed) -> Iterator[Shard]:
    for name in listed:
        samples = tars.samples(resolve(root) / name)
        columns = pa.schema([("label", pa.int64())] if any(sample.label for sample in samples) else [])
        sizes = [sample.image.size if sample.image else 0 for sample in samples]
        for first, last in runs([1] * len(samples), sizes, ROWS_PER_SHARD, BYTES_PER_SHARD):
            some = tuple(samples[first:last])
            size = sum(sizes[first:last])
            yield Shard(root=root, rows=len(some), size=size, files=(name,), samples=some, columns=columns)


def _file_shards(root: str, listed: _Listed) -> Iterator[Shard]:
    names = list(listed)
    columns = pa.schema([("label", pa.string())] if all("/" in name for name in names) else [])
    sizes = [int(info.get("size") or 0) for info in listed.values()]
    for first, last in runs([1] * len(names), sizes, ROWS_PER_SHARD, BYTES_PER_SHARD):
        size = sum(sizes[first:last])
        yield Shard(root=root, rows=last - first, size=size, files=tuple(names[first:last]), columns=columns)


_SHARDS: dict[Kind, Callable[[str, _Listed], Iterator[Shard]]] = {
    "table": _table_shards,
    "tars": _tar_shards,
    "files": _file_shards,
}


def read_batches(shard: Shard) -> Iterator[pa.Table]:
    """The rows of a shard in order, a few hundred at a time, as files may be large.

    Columns ``key`` (string), ``bytes`` (binary, null where a file vanished), ``path`` (string), then ``shard.columns``. A
    table's own columns of these names, and ``latent``, are called ``source_NAME``.
    """
    root, keys = resolve(shard.root), shard_keys(shard)
    if shard.row_groups:
        first = 0
        for table in tables.batches(root / shard.files[0], shard.row_groups, shard.skip, shard.rows, _BATCH_ROWS):
            wanted = pa.array([row not in shard.left_out for row in range(first, first + len(table))])
            yield _rows(shard, keys[first : first + len(table)].filter(wanted), table.filter(wanted))
            first += len(table)
        return
    left = [row for row in range(shard.rows) if row not in shard.left_out]
    for first in range(0, len(left), _BATCH_ROWS):
        some = left[first : first + _BATCH_ROWS]
        yield _rows(shard, keys.take(some), (_samples if shard.samples else _files)(root, shard, some))


def _rows(shard: Shard, keys: pa.Array, table: pa.Table) -> pa.Table:
    return pa.table({"key": keys, "bytes": table["bytes"], "path": table["path"], **laid_out(table, shard.columns)})


def _samples(root: Location, shard: Shard, rows: list[int]) -> pa.Table:
    some = tuple(shard.samples[row] for row in rows)
    labelled = "label" in shard.columns.names
    data, labels = tars.read(root / shard.files[0], some, labelled)
    paths = pa.array([sample.image and sample.image.name for sample in some], pa.string())
    return pa.table({"bytes": pa.array(data, pa.binary()), "path": paths, **({"label": labels} if labelled else {})})


def _files(root: Location, shard: Shard, rows: list[int]) -> pa.Table:
    names = [shard.files[row] for row in rows]
    data = pa.array([_bytes_or_none(root / name) for name in names], pa.binary())
    return pa.table({"bytes": data, "path": names, "label": [name.split("/", 1)[0] for name in names]})


def read_shard(shard: Shard) -> pa.Table:
    """All rows of :func:`read_batches`."""
    return pa.concat_tables(read_batches(shard))


def without(shards: tuple[Shard, ...], known: pa.ChunkedArray) -> tuple[Shard, ...]:
    """The shards without the rows of these keys; both sets of keys must fit into memory."""
    return leaving_out(shards, _is_among(shards, known))


def only(shards: tuple[Shard, ...], keys: pa.ChunkedArray) -> tuple[Shard, ...]:
    """The shards with no rows but those of these keys."""
    return leaving_out(shards, ~_is_among(shards, keys))


def _is_among(shards: tuple[Shard, ...], keys: pa.ChunkedArray) -> Bool[np.ndarray, "K"]:
    every = pa.chunked_array([shard_keys(shard) for shard in shards], pa.string())
    return pc.is_in(every, value_set=keys.combine_chunks()).to_numpy()


def leaving_out(shards: tuple[Shard, ...], rows: Bool[np.ndarray, "K"]) -> tuple[Shard, ...]:
    """The shards without these rows of theirs, one after another; those with none left are gone."""
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
