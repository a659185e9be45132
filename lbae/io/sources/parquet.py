"""Image tables of anyone: Parquet with a column ``image`` of struct{bytes, path}, and any other columns."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lbae.errors import LbaeError, UserError
from lbae.io.storage.location import Location

# Columns that rows get here or in a latent table; those of a source that have such a name are called
# source_NAME.
_TAKEN = ("key", "bytes", "path", "latent")
_BUFFER_BYTES = 2**20
# Who reads a piece of a row group reads the group from its start, so more pieces would only be read more
# often.
PIECES = 32


class Piece(NamedTuple):
    """Rows of a row group: its number, the rows before them, how many they are, and their bytes, about."""

    group: int
    skip: int
    rows: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Footer:
    """Row groups of a file, their rows and sizes, and its columns but the image, by the names they
    get here."""

    rows: tuple[int, ...]
    sizes: tuple[int, ...]
    columns: pa.Schema

    def pieces(self, most_rows: int, most_bytes: int) -> Iterator[Piece]:
        """The row groups, large ones in equal pieces, as pyarrow and others write a million rows into one by
        default.
        """
        for group, (rows, size) in enumerate(zip(self.rows, self.sizes, strict=True)):
            count = max(1, min(PIECES, rows, max(-(-rows // most_rows), -(-size // most_bytes))))
            cuts = [rows * index // count for index in range(count + 1)]
            for first, last in itertools.pairwise(cuts):
                yield Piece(group, first, last - first, size * (last - first) // max(1, rows))


def footer(location: Location) -> Footer:
    """What a file says of itself; UserError when it is no Parquet or has no images, or two columns would
    share a name.
    """
    try:
        with location.open() as file:
            parquet = pq.ParquetFile(file)
            schema, metadata = parquet.schema_arrow, parquet.metadata
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{location} cannot be read as Parquet: {error}") from error
    image = schema.field("image") if "image" in schema.names else None
    if image is None or not pa.types.is_struct(image.type) or image.type.get_field_index("bytes") < 0:
        raise UserError(
            f"{location} has no column 'image' of struct{{bytes, path}} (columns: {', '.join(schema.names)})"
        )
    names = [_renamed(name) for name in schema.names]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(
            f"{location} has more than one column for {', '.join(twice)} ({', '.join(_TAKEN)} become"
            f" source_NAME);"
            " rename them"
        )
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    return Footer(
        rows=tuple(group.num_rows for group in groups),
        sizes=tuple(group.total_byte_size for group in groups),
        columns=pa.schema(
            [pa.field(_renamed(field.name), field.type) for field in schema if field.name != "image"]
        ),
    )


def _renamed(name: str) -> str:
    return f"source_{name}" if name in _TAKEN else name


def batches(
    location: Location, groups: tuple[int, ...], skip: int, rows: int, most: int
) -> Iterator[pa.Table]:
    """``rows`` rows of some row groups after the first ``skip``, at most ``most`` at a time: bytes, path,
    other columns.

    LbaeError when the file is damaged. Pages are read as they are needed: a large row group need not fit into
    memory.
    """
    before, end = 0, skip + rows
    try:
        with location.open() as file:
            parquet = pq.ParquetFile(file, buffer_size=_BUFFER_BYTES)
            for batch in parquet.iter_batches(most, row_groups=list(groups)):
                first, last = max(skip - before, 0), min(end - before, len(batch))
                before += len(batch)
                if first < last:
                    yield _taken_apart(pa.Table.from_batches([batch.slice(first, last - first)]))
                if before >= end:
                    return
    except (pa.ArrowException, OSError) as error:
        raise LbaeError(f"{location} cannot be read as Parquet: {error}") from error


def _taken_apart(table: pa.Table) -> pa.Table:
    image = table["image"].combine_chunks()
    has_path = image.type.get_field_index("path") >= 0
    columns = {
        "bytes": pc.struct_field(image, "bytes").cast(pa.binary()),
        "path": pc.struct_field(image, "path").cast(pa.string())
        if has_path
        else pa.nulls(len(table), pa.string()),
    }
    return pa.table(columns | {_renamed(name): table[name] for name in table.column_names if name != "image"})
