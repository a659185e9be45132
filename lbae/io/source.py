"""Image sources as a deterministic plan of shards: Parquet image tables, WebDataset tars, or folders of image files.

A shard is a run of rows that one task reads. The plan depends on the source alone, so every worker and every rerun cuts it
the same way, and a row's key is unique by construction.
"""

import hashlib
import posixpath
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, Float64

from lbae.errors import UserError
from lbae.io import datasets, tars
from lbae.io.artifact import BEGUN, MANIFEST, digest_json, read_manifest
from lbae.io.storage import readable, resolve

ROWS_PER_SHARD = 2048


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Rows of one Parquet file (whole row groups), samples of one tar, or a run of image files."""

    root: str
    index: int
    start: int
    rows: int
    files: tuple[str, ...]
    row_groups: tuple[int, ...] = ()
    first_row: int = 0
    samples: tuple[tars.Sample, ...] = ()
    classes: bool = False


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


def plan(uri: str) -> Source:
    """Plan a source: a path, a URI, or ``torchvision:NAME``.

    UserError when it is missing, empty, unfinished or a table without an ``image`` column.
    """
    if uri.startswith(datasets.SCHEME):
        uri = datasets.as_image_table(uri)
    location = readable(uri, "data")
    if (location / BEGUN).exists():
        read_manifest(uri)
    listed = [(location.name, location.fs.info(location.path))] if location.is_file() else location.files()
    root = posixpath.dirname(str(location)) if location.is_file() else str(location)
    for suffix, planned in ((".parquet", _table_shards), (".tar", _tar_shards)):
        if names := [name for name, _ in listed if name.endswith(suffix)]:
            shards = planned(root, names)
            listed = [(name, info) for name, info in listed if name.endswith(suffix)]
            break
    else:
        listed = [(name, info) for name, info in listed if name != MANIFEST]
        shards = _file_shards(root, [name for name, _ in listed])
    if not sum(shard.rows for shard in shards):
        raise UserError(f"data {uri} holds no images (looked for Parquet files, tars and image files, also in subfolders)")
    stamps = [[name, info.get("size"), str(info.get("ETag") or info.get("mtime") or "")] for name, info in listed]
    return Source(uri=str(location), fingerprint=digest_json(stamps), shards=tuple(shards))


def _table_shards(root: str, names: list[str]) -> list[Shard]:
    shards: list[Shard] = []
    start = 0
    for name in names:
        metadata = _footer(root, name)
        groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        first = row = 0
        for index, rows in enumerate([*groups, 0]):
            last = index == len(groups)
            if index > first and (last or row + rows > ROWS_PER_SHARD):
                done = sum(groups[:first])
                shards.append(
                    Shard(
                        root=root,
                        index=len(shards),
                        start=start,
                        rows=row,
                        files=(name,),
                        row_groups=tuple(range(first, index)),
                        first_row=done,
                    )
                )
                start += row
                first, row = index, 0
            row += rows
    return shards


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


def _tar_shards(root: str, names: list[str]) -> list[Shard]:
    shards: list[Shard] = []
    start = 0
    for name in names:
        samples = tars.samples(resolve(root) / name)
        classes = any(sample.label for sample in samples)
        for first in range(0, len(samples), ROWS_PER_SHARD):
            some = tuple(samples[first : first + ROWS_PER_SHARD])
            shards.append(
                Shard(
                    root=root, index=len(shards), start=start, rows=len(some), files=(name,), samples=some, classes=classes
                )
            )
            start += len(some)
    return shards


def _file_shards(root: str, names: list[str]) -> list[Shard]:
    classes = bool(names) and all("/" in name for name in names)
    edges = [*range(0, len(names), ROWS_PER_SHARD), len(names)]
    return [
        Shard(root=root, index=i, start=a, rows=b - a, files=tuple(names[a:b]), classes=classes)
        for i, (a, b) in enumerate(pairwise(edges))
    ]


def read_shard(shard: Shard) -> pa.Table:
    """Columns ``key`` (string), ``bytes`` (binary, null where a file vanished), ``path``, then the other columns."""
    root = resolve(shard.root)
    if shard.samples:
        data, labels = tars.read(root / shard.files[0], shard.samples, shard.classes)
        columns: dict[str, Any] = {"key": shard_keys(shard), "bytes": pa.array(data, pa.binary())}
        columns["path"] = pa.array([sample.image and sample.image.name for sample in shard.samples], pa.string())
        return pa.table(columns | ({"label": labels} if shard.classes else {}))
    if not shard.row_groups:
        columns = {"key": shard_keys(shard)}
        columns["bytes"] = pa.array([_bytes_or_none(shard, name) for name in shard.files], pa.binary())
        columns["path"] = list(shard.files)
        if shard.classes:
            columns["label"] = [name.split("/", 1)[0] for name in shard.files]
        return pa.table(columns)
    name = shard.files[0]
    with (root / name).open() as file:
        table = pq.ParquetFile(file).read_row_groups(list(shard.row_groups))
    image = table["image"].combine_chunks()
    has_path = image.type.get_field_index("path") >= 0
    first = {
        "key": shard_keys(shard),
        "bytes": pc.struct_field(image, "bytes"),
        "path": pc.struct_field(image, "path") if has_path else pa.nulls(len(table), pa.string()),
    }
    rest = {column: table[column] for column in table.column_names if column not in ("image", *first)}
    return pa.table({**first, **rest})


def shard_keys(shard: Shard) -> pa.Array:
    """The keys of a shard's rows, known without reading it."""
    if shard.samples:
        return pa.array([f"{shard.files[0]}:{sample.name}" for sample in shard.samples])
    if not shard.row_groups:
        return pa.array(shard.files, pa.string())
    return pa.array([f"{shard.files[0]}:{row}" for row in range(shard.first_row, shard.first_row + shard.rows)])


def _bytes_or_none(shard: Shard, name: str) -> bytes | None:
    try:
        return (resolve(shard.root) / name).read_bytes()
    except FileNotFoundError:
        return None


def key_fractions(keys: pa.ChunkedArray) -> Float64[np.ndarray, "K"]:
    """A number in [0, 1) for every key, uniform and always the same: rows below p are a subset with the share p."""
    digests = (hashlib.sha256(key.encode()).digest() for key in keys.to_pylist())
    return np.fromiter((int.from_bytes(d[:8]) / 2**64 for d in digests), dtype=np.float64, count=len(keys))


def held_out(keys: pa.Array | pa.ChunkedArray) -> Bool[np.ndarray, "K"]:
    """Rows that every stage keeps for validation: sha256(key) mod 10 = 0."""
    digests = (hashlib.sha256(key.encode()).digest() for key in keys.to_pylist())
    return np.fromiter((int.from_bytes(d) % 10 == 0 for d in digests), dtype=bool, count=len(keys))
