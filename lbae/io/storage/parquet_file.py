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
# Row groups, columns and nested fields of a file. Arrow reads nested fields by recursion: from about 12,000
# levels on, which take 100 kB of a file, its stack overflows and the process dies.
_MOST_FOOTER_ENTRIES = 10_000
_LEVELS = 32
# Ray registers extension types with Arrow. The values of its type for objects are pickles, which run code;
# these hold numbers.
_EXTENSIONS = {"ray.data.arrow_tensor", "ray.data.arrow_tensor_v2", "ray.data.arrow_variable_shaped_tensor"}


@contextmanager
def open_parquet(location: Location, **options: Any) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file for reading; page checksums are verified.

    Errors while the body reads the file are converted as well.

    Args:
        location: The file.
        options: Passed to pyarrow's ``ParquetFile``.

    Raises:
        UserError: The file is missing, damaged or not Parquet, has too large a footer, or has a column whose
            values could run code.
        TransientStorageError: The storage did not answer.
    """
    try:
        with (
            location.open() as raw,
            pq.ParquetFile(
                raw,
                page_checksum_verification=True,
                thrift_container_size_limit=_MOST_FOOTER_ENTRIES,
                **options,
            ) as file,
        ):
            _check_types(location, file)
            yield file
    except LbaeError:
        raise
    except Exception as error:
        message = f"{location} cannot be read as Parquet: {error}"
        if "Exceeded size limit" in message:
            message += f" (allowed: {_MOST_FOOTER_ENTRIES} row groups, and as many columns)"
        if is_transient(error):
            raise TransientStorageError(message) from error
        if isinstance(error, pa.ArrowException | OSError | UnicodeDecodeError | OverflowError):
            raise UserError(message) from error
        raise


def _check_types(location: Location, file: pq.ParquetFile) -> None:
    """Raise UserError if a column is nested deeply, or has an extension type whose values could run code."""
    columns = file.metadata.schema
    levels = max((columns.column(i).path.count(".") for i in range(len(columns))), default=0)
    if levels > _LEVELS:
        raise UserError(f"{location} has a column nested {levels} levels deep; allowed: at most {_LEVELS}")
    try:
        schema = file.schema_arrow
    except ValueError as error:  # Ray's types check their parameters
        raise UserError(f"{location} cannot be read as Parquet: {error}") from error
    for field in schema:
        if refused := next(_foreign(field.type), None):
            raise UserError(
                f"column {field.name!r} of {location} has the extension type {refused!r:.100}, whose values"
                " could run code when they are read; allowed: types of Parquet and Ray's tensors; drop the"
                " column"
            )


def _foreign(kind: pa.DataType) -> Iterator[str]:
    """Names of the extension types in a type that are neither Arrow's own nor hold just numbers."""
    if isinstance(kind, pa.ExtensionType) and kind.extension_name not in _EXTENSIONS:
        yield kind.extension_name
    nested = (
        [kind.value_type]
        if pa.types.is_dictionary(kind)
        else [kind.field(i).type for i in range(kind.num_fields)]
    )
    for one in nested:
        yield from _foreign(one)


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
