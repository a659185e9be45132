"""Cutting a source into shards: a deterministic plan from a listing, and a look at footers and headers, not
at images.

The plan depends on the source alone, so every worker and every rerun cuts it the same way.
"""

import itertools
import posixpath
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Literal, TypeVar

import pyarrow as pa

from lbae.errors import UserError
from lbae.io.artifacts.manifest import MANIFEST, read_manifest
from lbae.io.artifacts.output import UNFINISHED, WORK
from lbae.io.images import image_size
from lbae.io.sources import parquet as tables
from lbae.io.sources import tar as tars
from lbae.io.sources.columns import together
from lbae.io.sources.source import Shard, Source, bytes_or_none
from lbae.io.storage.digests import digest_json
from lbae.io.storage.location import Location, readable, resolve

ROWS_PER_SHARD = 2048
BYTES_PER_SHARD = 256 * 2**20
CUT = {"shard_rows": ROWS_PER_SHARD, "shard_bytes": BYTES_PER_SHARD, "pieces_a_group": tables.PIECES}
"""How sources are cut: what is finished of a shard is of no use to a version that cuts otherwise."""
_LOOKED_AT = 16
_LOOKS = 16  # at a time

Kind = Literal["table", "tars", "files"]

_Seen = TypeVar("_Seen")
_Listed = dict[str, dict[str, Any]]  # what the filesystem says of files, by their names below the root


def plan(uri: str, kind: Kind | None = None) -> Source:
    """Plan a source: a path, a URI, or ``torchvision:NAME``; of another kind than its files' names say if
    ``kind`` is given.

    UserError when it is missing or unfinished, holds no images, is a table without an ``image`` column, or
    its files have columns that do not fit together.
    """
    if uri.startswith("torchvision:"):
        from lbae.io.sources import (
            torchvision_sets as datasets,
        )  # which imports torchvision, and that takes seconds

        uri = datasets.as_image_table(uri)
    location = readable(uri, "data")
    if (location / UNFINISHED).exists():
        read_manifest(uri)
    listed = dict(
        [(location.name, location.fs.info(location.path))] if location.is_file() else location.files()
    )
    if (location / MANIFEST).exists():  # of an image table, whose quarantine holds no images
        apart = (MANIFEST, "quarantine/", f"{WORK}/")
        listed = {name: listed[name] for name in listed if not name.startswith(apart)}
    root = posixpath.dirname(str(location)) if location.is_file() else str(location)
    named, recognised, found = _recognised(listed, kind)
    shards = _numbered(_SHARDS[recognised](root, found)) if kind or _holds_images(root, named, found) else ()
    if not shards:
        raise UserError(
            f"data {uri} holds no images (looked for Parquet files, tars and image files, also in subfolders)"
        )
    stamps = [[name, info.get("size"), _version(info)] for name, info in found.items()]
    fingerprint = digest_json(stamps if recognised == named else [recognised, stamps])
    columns = together((shard.columns for shard in shards), uri)
    alike = tuple(replace(shard, columns=columns) for shard in shards)
    return Source(uri=str(location), fingerprint=fingerprint, shards=alike)


def _version(info: dict[str, Any]) -> str:
    """What a filesystem (s3fs; Google's, Azure's; Hugging Face's; the local one) says of a file's content,
    else its time.
    """
    return str(next((info[name] for name in ("ETag", "etag", "blob_id", "mtime") if info.get(name)), ""))


def _recognised(listed: _Listed, asked: Kind | None) -> tuple[Kind, Kind, _Listed]:
    """The kind of a source by its files' names, the kind it is read as, and the files that it is then made
    of.

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
    return any(
        image_size(bytes_or_none(resolve(root) / name)) for name in itertools.islice(listed, _LOOKED_AT)
    )


def _numbered(shards: Iterator[Shard]) -> tuple[Shard, ...]:
    """The shards with their numbers and their first rows in the source."""
    found = list(shards)
    starts = itertools.accumulate((shard.rows for shard in found), initial=0)
    return tuple(
        replace(shard, index=i, start=start)
        for i, (shard, start) in enumerate(zip(found, starts, strict=False))
    )


def _look_at_each(
    root: str, listed: _Listed, look: Callable[[Location], _Seen]
) -> Iterator[tuple[str, _Seen]]:
    """What a look at every file gives, some at a time: an object store takes long to answer, but answers many
    at once.
    """
    place = resolve(root)
    with ThreadPoolExecutor(_LOOKS) as pool:
        yield from zip(listed, pool.map(lambda name: look(place / name), listed), strict=True)


def _table_shards(root: str, listed: _Listed) -> Iterator[Shard]:
    for name, footer in _look_at_each(root, listed, tables.footer):
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


def runs(
    rows: Sequence[int], sizes: Sequence[int], most_rows: int, most_bytes: int
) -> Iterator[tuple[int, int]]:
    """First and last + 1 of runs of items that stay within a number of rows and of bytes, as far as single
    items do.
    """
    first = row = size = 0
    for index, (more, bytes_) in enumerate(zip(rows, sizes, strict=True)):
        if index > first and (row + more > most_rows or size + bytes_ > most_bytes):
            yield first, index
            first, row, size = index, 0, 0
        row, size = row + more, size + bytes_
    if row:
        yield first, len(rows)


def _tar_shards(root: str, listed: _Listed) -> Iterator[Shard]:
    for name, samples in _look_at_each(root, listed, tars.samples):
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
