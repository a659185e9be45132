"""Opening Parquet files: whatever is wrong with one becomes an error that names it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lbae.errors import LbaeError, TransientStorageError, UserError
from lbae.io.storage.location import Location
from lbae.transient import is_transient


@contextmanager
def open_parquet(location: Location, **options: Any) -> Iterator[pq.ParquetFile]:
    """A Parquet file for reading, with ``options`` of pyarrow's ``ParquetFile``; checksums are verified.

    Raises:
        UserError: The file is missing, damaged or no Parquet, also when that shows while it is read.
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
        if isinstance(error, pa.ArrowException | OSError):
            raise UserError(message) from error
        raise
