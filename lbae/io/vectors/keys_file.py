"""The keys beside packed latents: a Parquet file whose row i describes latent i."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from lbae.io.storage.location import Location

KEYS = "keys.parquet"


@contextmanager
def keys_file(folder: Location, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """Write ``keys.parquet``: every call adds the rows of a table, with all columns but the latent."""
    columns = pa.schema([field for field in schema if field.name != "latent"])
    with (
        (folder / KEYS).writing() as file,
        pq.ParquetWriter(file, columns, compression="zstd", write_page_checksum=True) as writer,
    ):
        yield lambda rows: writer.write_table(rows.select(columns.names))
