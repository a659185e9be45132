"""Reading and writing Parquet files, with errors that name the file."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lbae.errors import LbaeError, TransientStorageError, UserError
from lbae.io.storage.location import Location, resolve
from lbae.transient_errors import is_transient

_TEXT_ROWS = 2**12


@contextmanager
def open_parquet(location: Location, **options: Any) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file for reading; page checksums are verified.

    Errors while the body reads the file are converted as well.

    Args:
        location: The file.
        options: Passed to pyarrow's ``ParquetFile``.

    Raises:
        UserError: The file is missing, damaged or not Parquet.
        TransientStorageError: The storage did not answer.
    """
    try:
        with location.open() as raw, pq.ParquetFile(raw, page_checksum_verification=True, **options) as file:
            yield file
    except LbaeError:
        raise
    except Exception as error:
        message = f"{location} cannot be read as Parquet: {error}"
        if is_transient(error):
            raise TransientStorageError(message) from error
        if isinstance(error, pa.ArrowException | OSError | UnicodeDecodeError | OverflowError):
            raise UserError(message) from error
        raise


def check_column(location: Location, schema: pa.Schema, name: str, kind: pa.DataType) -> None:
    """Raise UserError unless the file at ``location`` has one column ``name``, and of this type."""
    found = [field.type for field in schema if field.name == name]
    if found != [kind]:
        raise UserError(f"{location} has columns {name} of types {found!s:.300}; allowed: one of type {kind}")


def texts(location: Location, file: pq.ParquetFile, name: str) -> Iterator[pa.DictionaryArray]:
    """Yield the column ``name`` of strings in batches of at most 2**12 rows.

    Each text is held once per batch, because a small file can repeat a long text very often.

    Raises:
        UserError: The file has no such column, or it is not of strings.
    """
    check_column(location, file.schema_arrow, name, pa.string())
    with open_parquet(location, read_dictionary=[name], metadata=file.metadata) as again:
        for batch in again.iter_batches(_TEXT_ROWS, columns=[name]):
            yield batch.column(name)


def write_parquet(uri: str, name: str, table: pa.Table, row_groups: Sequence[int] | None = None) -> None:
    """Write a table atomically as one file, in row groups of the given lengths (default: one row group)."""
    buffer = io.BytesIO()
    # Latents rarely repeat, so a dictionary of them would only cost time.
    plain = [column for column in table.column_names if column != "latent"]
    with pq.ParquetWriter(
        buffer, table.schema, compression="zstd", use_dictionary=plain, write_page_checksum=True
    ) as writer:
        start = 0
        for length in row_groups or [len(table)]:
            writer.write_table(table.slice(start, length), row_group_size=max(1, length))
            start += length
    (resolve(uri) / name).write_bytes(buffer.getvalue())
