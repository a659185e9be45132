"""Image tables from any writer: Parquet with a column ``image`` and any other columns.

The column's type is struct{bytes, path}, or binary for the bytes alone.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool

from lbae.errors import UserError
from lbae.io.sources.columns import plain_type
from lbae.io.sources.stored_size import StoredSize
from lbae.io.storage.location import Location
from lbae.io.storage.parquet_file import open_parquet

# Columns that this package adds to rows and latent tables; a source's own column NAME becomes source_NAME.
_RESERVED = ("key", "bytes", "path", "latent")
_BUFFER_BYTES = 2**20
_EXACT = 2**53  # doubles represent all integers up to this one
# A row group is read from its start for each slice, so more slices would mean more repeated reading.
MOST_SLICES = 32


class RowGroupSlice(NamedTuple):
    """Rows of a row group: the group's index, rows to skip before them, their number, approximate bytes.

    ``column_bytes`` are the bytes without those of the images.
    """

    group: int
    skip: int
    rows: int
    size: int
    column_bytes: int


@dataclass(frozen=True, kw_only=True)
class TableIndex:
    """Rows and bytes of a Parquet file's row groups, and its columns without the image.

    ``sizes`` count all bytes of a row group, ``column_bytes`` those of its columns without the image.
    ``large_integers``: the columns that hold integers beyond 2**53. ``stored``: the size of all images, if
    ``lbae ingest --size`` wrote the file.
    """

    rows: tuple[int, ...]
    sizes: tuple[int, ...]
    column_bytes: tuple[int, ...]
    columns: pa.Schema
    large_integers: frozenset[str]
    stored: StoredSize | None

    def slices(self, most_rows: int, most_bytes: int) -> Iterator[RowGroupSlice]:
        """Yield the row groups; large ones in equal slices, as many writers put a million rows into one."""
        every = zip(self.rows, self.sizes, self.column_bytes, strict=True)
        for group, (rows, size, column_bytes) in enumerate(every):
            count = max(1, min(MOST_SLICES, rows, max(-(-rows // most_rows), -(-size // most_bytes))))
            cuts = [rows * index // count for index in range(count + 1)]
            for first, last in itertools.pairwise(cuts):
                own, whole = last - first, max(1, rows)
                yield RowGroupSlice(group, first, own, size * own // whole, column_bytes * own // whole)


def has_images(location: Location) -> bool:
    """Whether a file has a column of images; raises UserError if the file is not Parquet."""
    schema, _ = _footer(location)
    return any(map(_is_image, schema))


def index_parquet(location: Location) -> TableIndex:
    """The row groups, sizes and columns of an image table's file, from its footer.

    Raises:
        UserError: The file is not Parquet, has no images or only their paths, or two columns would share a
            name.
    """
    schema, metadata = _footer(location)
    names = [renamed(name) for name in schema.names]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(
            f"{location} has more than one column for {', '.join(twice)} (columns {', '.join(_RESERVED)}"
            f" become source_NAME); rename them"
        )
    if "image" not in names or not _is_image(schema.field("image")):
        raise UserError(
            f"{location} has no column 'image' of type struct{{bytes, path}} or binary (columns:"
            f" {', '.join(f'{field.name} {field.type}' for field in schema)})"
        )
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    if _is_all_null(groups, "image.bytes") and not _is_all_null(groups, "image.path"):
        raise UserError(
            f"column 'image' of {location} holds paths but no bytes; give the folder with the image files, or"
            f" write their bytes into the table"
        )
    columns = [
        pa.field(renamed(field.name), plain_type(field.type)) for field in schema if field.name != "image"
    ]
    return TableIndex(
        rows=tuple(group.num_rows for group in groups),
        sizes=tuple(group.total_byte_size for group in groups),
        column_bytes=tuple(map(_column_bytes, groups)),
        columns=pa.schema(columns),
        large_integers=frozenset(_large_integers(schema, groups)),
        stored=StoredSize.of_file(location, schema.metadata),
    )


def _footer(location: Location) -> tuple[pa.Schema, pq.FileMetaData]:
    with open_parquet(location) as parquet:
        return parquet.schema_arrow, parquet.metadata


def _column_bytes(group: pq.RowGroupMetaData) -> int:
    """The uncompressed bytes of a row group without those of the images."""
    chunks = map(group.column, range(group.num_columns))
    others = (chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] != "image")
    return sum(chunk.total_uncompressed_size for chunk in others)


def _is_image(field: pa.Field) -> bool:
    return field.name == "image" and (
        _is_binary(field.type)
        or (pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
    )


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _is_all_null(groups: list[pq.RowGroupMetaData], path: str) -> bool:
    """Whether a column has rows and all of them are null; False without statistics or without the column."""
    chunks = [
        chunk
        for group in groups
        for chunk in map(group.column, range(group.num_columns))
        if chunk.path_in_schema == path
    ]
    return bool(chunks) and all(
        chunk.statistics is not None
        and chunk.statistics.has_null_count
        and chunk.statistics.null_count == chunk.num_values > 0
        for chunk in chunks
    )


def _large_integers(schema: pa.Schema, groups: list[pq.RowGroupMetaData]) -> Iterator[str]:
    """Columns whose statistics, if the file has any, show integers beyond 2**53."""
    wide = {field.name for field in schema if field.type in (pa.int64(), pa.uint64())}
    for group in groups if wide else ():
        for chunk in map(group.column, range(group.num_columns)):
            facts = chunk.statistics if chunk.path_in_schema in wide else None
            if facts and facts.has_min_max and not -_EXACT <= facts.min <= facts.max <= _EXACT:
                yield renamed(chunk.path_in_schema)


def renamed(name: str, *reserved: str) -> str:
    """The column name in rows: ``source_NAME`` for reserved names, else the source's own name."""
    return f"source_{name}" if name in (*_RESERVED, *reserved) else name


def batches(
    location: Location, groups: tuple[int, ...], wanted: Bool[np.ndarray, "R"], most: int
) -> Iterator[pa.Table]:
    """Yield the wanted rows of some row groups in order, in batches of at most ``most``.

    ``wanted`` marks rows from the first row of the first row group on. Row groups without wanted rows are not
    read. Others are read from their start to the last wanted row, page by page, so a large row group need not
    fit into memory. Columns: bytes, path, then the others.

    Raises:
        UserError: The file is damaged, or has other row groups than when the source was planned.
    """
    with open_parquet(location, buffer_size=_BUFFER_BYTES) as parquet:
        rows = [parquet.metadata.row_group(group).num_rows for group in groups]
        if sum(rows) < len(wanted):
            raise UserError(
                f"{location} has {sum(rows)} rows in row groups where it had {len(wanted)} or more when the"
                f" job started: it was changed meanwhile; run the job again"
            )
        each = np.split(wanted, np.cumsum(rows)[:-1])
        groups = tuple(group for group, some in zip(groups, each, strict=True) if some.any())
        left = np.concatenate([some for some in each if some.any()])
        for batch in parquet.iter_batches(most, row_groups=list(groups)):
            some, left = left[: len(batch)], left[len(batch) :]
            if some.any():
                first, last = some.argmax(), len(some) - some[::-1].argmax()
                table = _unpacked(pa.Table.from_batches([batch.slice(first, last - first)]))
                # Only plain types can be filtered.
                yield table if some[first:last].all() else table.filter(pa.array(some[first:last]))
            if not left.any():
                return


def _unpacked(table: pa.Table) -> pa.Table:
    """The rows with the image's two fields as columns; ``path`` is null if the image has none."""
    image = table["image"].combine_chunks()
    is_struct = pa.types.is_struct(image.type)
    has_path = is_struct and image.type.get_field_index("path") >= 0
    data = pc.struct_field(image, "bytes") if is_struct else image
    path = pc.struct_field(image, "path") if has_path else pa.nulls(len(table), pa.string())
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        "bytes": data.cast(pa.binary()),
        "path": path.cast(pa.string()),
    }
    for name in table.column_names:
        if name != "image":
            columns[renamed(name)] = table[name].cast(plain_type(table[name].type))
    return pa.table(columns)
