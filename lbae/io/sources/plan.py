"""Dividing a source into shards, from its listing, footers and headers; no image is read.

The plan depends on the source alone, so every worker and every rerun gets the same shards.
"""

import itertools
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from lbae.errors import UserError
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.artifacts.output import UNFINISHED
from lbae.io.sources import parquet, tar
from lbae.io.sources.columns import check_integers, common_columns, partition_columns
from lbae.io.sources.listing import Kind as Kind
from lbae.io.sources.listing import Listing, list_source, look_at_each, no_images
from lbae.io.sources.names import check_names, split_name
from lbae.io.sources.source import Shard, Source, as_text, fingerprint_of
from lbae.io.storage.digests import digest_json
from lbae.io.storage.location import readable, resolve

ROWS_PER_SHARD = 2048
BYTES_PER_SHARD = 256 * 2**20
SHARD_LIMITS = {
    "shard_rows": ROWS_PER_SHARD,
    "shard_bytes": BYTES_PER_SHARD,
    "pieces_a_group": parquet.MOST_SLICES,
}
"""Part of the resume key: finished shards fit only these sizes."""
_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval"}


def plan(data: str | Sequence[str], kind: Kind | None = None) -> Source:
    """Plan a source, or several as one. The order of several does not matter.

    Args:
        data: A path, a URI, or ``torchvision:NAME``. With ``NAME=`` before it, its keys begin with NAME/.
        kind: Overrides the kind that follows from the files' suffixes.

    Raises:
        UserError: A source is missing or unfinished, holds no images or images of several kinds, is a
            table without a column ``image``, or files have columns of types that do not fit together. Two
            sources have the same name, or one holds the other.
    """
    given = [split_name(one) for one in ([data] if isinstance(data, str) else data)]
    if not given:
        raise UserError("no data was given; give one source or more")
    found = [_plan_one(name, uri, kind) for name, uri in given]
    if len(found) == 1:
        return found[0] if not found[0].name else _as_one(found)
    return _as_one([one if one.name else replace(one, name=resolve(one.uri).name) for one in found])


def _as_one(sources: list[Source]) -> Source:
    """Named sources as one, whose keys begin with their names."""
    parts = sorted(sources, key=lambda source: source.name)
    check_names([(part.name, part.uri) for part in parts])
    uri = ", ".join(part.uri for part in parts)
    columns = common_columns(((part.uri, part.shards[0].columns) for part in parts), uri)
    shards = [
        replace(shard, columns=columns, prefix=f"{part.name}/") for part in parts for shard in part.shards
    ]
    return Source(
        uri=uri,
        fingerprint=fingerprint_of(parts),
        shards=_numbered(shards),
        skipped=sum((part.skipped for part in parts), Counter[str]()),
        parts=tuple(replace(part, shards=()) for part in parts),
    )


def _plan_one(name: str, uri: str, kind: Kind | None) -> Source:
    if uri.startswith("torchvision:"):
        # Imported here, because torchvision takes seconds to import.
        from lbae.io.sources import torchvision_sets

        uri = torchvision_sets.as_image_table(uri)
    location = readable(uri, "data")
    if (location / UNFINISHED).exists():
        read_manifest(uri)
    listing = list_source(location, kind)
    found, skipped = _SHARDS[listing.kind](listing)
    shards = _numbered(found)
    if not shards:
        raise no_images(uri, listing.files)
    stamps = [[name, info.get("size"), _version(info)] for name, info in listing.files.items()]
    columns = common_columns(((shard.files[0], shard.columns) for shard in shards), uri)
    return Source(
        uri=str(location),
        fingerprint=digest_json(stamps if listing.kind == listing.named else [listing.kind, stamps]),
        shards=tuple(replace(shard, columns=columns) for shard in shards),
        skipped=listing.skipped + skipped,
        name=name,
    )


def _version(info: dict[str, Any]) -> str:
    """The version of a file's content (ETag or blob ID of an object store or hub), else its time."""
    return str(next((info[name] for name in ("ETag", "etag", "blob_id", "mtime") if info.get(name)), ""))


def _numbered(shards: Iterable[Shard]) -> tuple[Shard, ...]:
    """The shards with ``index`` and ``start`` filled in."""
    found = list(shards)
    starts = itertools.accumulate((shard.rows for shard in found), initial=0)
    return tuple(
        replace(shard, index=i, start=start)
        for i, (shard, start) in enumerate(zip(found, starts, strict=False))
    )


def runs(
    rows: Sequence[int], sizes: Sequence[int], most_rows: int, most_bytes: int
) -> Iterator[tuple[int, int]]:
    """Yield start and end of runs of items that stay within ``most_rows`` and ``most_bytes``.

    An item that exceeds a limit by itself is a run of its own.
    """
    first = row = size = 0
    for index, (more, bytes_) in enumerate(zip(rows, sizes, strict=True)):
        if index > first and (row + more > most_rows or size + bytes_ > most_bytes):
            yield first, index
            first, row, size = index, 0, 0
        row, size = row + more, size + bytes_
    if row:
        yield first, len(rows)


_Planned = tuple[list[Shard], Counter[str]]
"""The shards of a source, and counts by suffix of left-out members of its files."""


def _table_shards(listing: Listing) -> _Planned:
    found = dict(
        zip(listing.files, look_at_each(listing.root, listing.files, parquet.index_parquet), strict=True)
    )
    check_integers(
        {name: (index.columns, index.large_integers) for name, index in found.items()}, listing.root
    )
    shards = []
    for name, index in found.items():
        slices = list(index.slices(ROWS_PER_SHARD, BYTES_PER_SHARD))
        rows, sizes = [part.rows for part in slices], [part.size for part in slices]
        for first, last in runs(rows, sizes, ROWS_PER_SHARD, BYTES_PER_SHARD):
            group_rows = Counter[int]()
            for part in slices[first:last]:
                group_rows[part.group] += part.rows
            shard = Shard(
                root=listing.root,
                rows=group_rows.total(),
                size=sum(sizes[first:last]),
                column_bytes=sum(part.column_bytes for part in slices[first:last]),
                files=(name,),
                columns=index.columns,
                row_groups=tuple(group_rows),
                group_rows=tuple(group_rows.values()),
                skip=slices[first].skip,
                first_row=sum(rows[:first]),
                stored=index.stored,
            )
            shards.append(shard)
    return _with_partitions(shards, listing), Counter()


def _tar_shards(listing: Listing) -> _Planned:
    shards, skipped = [], Counter[str]()
    for name, index in zip(
        listing.files, look_at_each(listing.root, listing.files, tar.index_tar), strict=True
    ):
        skipped += index.skipped
        samples = index.samples
        columns = pa.schema([("label", pa.int64())] if any(sample.label for sample in samples) else [])
        sizes = [sample.image.size if sample.image else 0 for sample in samples]
        for first, last in runs([1] * len(samples), sizes, ROWS_PER_SHARD, BYTES_PER_SHARD):
            shard = Shard(
                root=listing.root,
                rows=last - first,
                size=sum(sizes[first:last]),
                files=(name,),
                columns=columns,
                first_row=first,
                samples=samples[first:last],
            )
            shards.append(shard)
    return _with_partitions(shards, listing), skipped


def _with_partitions(shards: list[Shard], listing: Listing) -> list[Shard]:
    """The shards with the partition columns of their files' folders ``column=value``."""
    every = partition_columns(listing.files)
    found = []
    for shard in shards:
        own = {
            parquet.renamed(name, "image"): value
            for name, value in every[shard.files[0]].items()
            if name not in shard.columns.names
        }
        fields = [pa.field(name, pa.scalar(value).type) for name, value in own.items()]
        columns = pa.schema([*shard.columns, *fields])
        found.append(replace(shard, columns=columns, constants=own))
    return found


def _file_shards(listing: Listing) -> _Planned:
    names = list(listing.files)
    if len({as_text(name) for name in names}) < len(names):
        raise UserError(
            f"two files of {listing.root} have the same name once bytes that are not UTF-8 are written as"
            f" \\xNN; rename one of them"
        )
    levels = _levels(names)
    columns = pa.schema([(name, pa.string()) for name in levels])
    sizes = [int(info.get("size") or 0) for info in listing.files.values()]
    shards = [
        Shard(
            root=listing.root,
            rows=last - first,
            size=sum(sizes[first:last]),
            files=tuple(names[first:last]),
            columns=columns,
            levels=levels,
        )
        for first, last in runs([1] * len(names), sizes, ROWS_PER_SHARD, BYTES_PER_SHARD)
    ]
    return shards, Counter()


def _levels(names: list[str]) -> tuple[str, ...]:
    """The columns given by the folders of image files: ``label``, ``split``, or ``split`` and ``label``.

    The first folder of a path gives the first column, and so on. An image without that folder has null.
    """
    folders = [posixpath.dirname(name).split("/") for name in names]
    tops = {parts[0] for parts in folders}
    if all(top.lower() in _SPLITS for top in tops):
        return ("split", "label") if any(len(parts) > 1 for parts in folders) else ("split",)
    return ("label",) if tops != {""} else ()


_SHARDS: dict[Kind, Callable[[Listing], _Planned]] = {
    "table": _table_shards,
    "tars": _tar_shards,
    "files": _file_shards,
}
