"""Export latent tables to the files of a search tool; the rows keep their order.

In every format a latent is ``np.packbits(latent > 0)``: most significant bit first, which the ecosystem calls
``ubinary``. Padding bits are 0 in all rows, so distances are those of the table.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import pyarrow as pa

from lbae.errors import UserError
from lbae.io.artifacts.latent_tables import LatentTables
from lbae.io.artifacts.output import Output
from lbae.io.storage.digests import digest
from lbae.io.storage.location import Location, resolve
from lbae.io.vectors.faiss_index import write_faiss
from lbae.io.vectors.lance_table import write_lance
from lbae.io.vectors.npy_file import write_npy

KIND = "latent export"
Format = Literal["faiss", "npy", "lance"]

# Each writes the rows of a table to a folder, and returns the paths of its files.
_WRITERS: dict[Format, Callable[[Location, LatentTables, pa.Schema, Iterator[pa.Table]], list[str]]] = {
    "faiss": write_faiss,
    "npy": write_npy,
    "lance": write_lance,
}


def export_latents(
    table: LatentTables, output: Output, kind: Format, on_rows: Callable[[int], None]
) -> dict[str, Any]:
    """Write and publish the rows of a table in one format; the folder of ``output`` has begun.

    Args:
        table: The latent tables, not empty.
        output: Where to publish.
        kind: The format.
        on_rows: Called with the number of rows done.

    Raises:
        UserError: A part is damaged, or the package for the format is missing.
    """
    schema = pa.schema([field for field in table.columns if field.name != "image"])
    rows = _rows(table, schema, on_rows)
    files = _WRITERS[kind](resolve(output.uri), table, schema, rows)
    return output.publish(
        fingerprint=digest(table.fingerprint.encode(), kind.encode()),
        rows=table.rows,
        files=files,
        result={"format": kind, "latent_dim": table.latent_dim},
    )


def _rows(table: LatentTables, schema: pa.Schema, on_rows: Callable[[int], None]) -> Iterator[pa.Table]:
    """Yield all rows in the table's order; UserError unless they are as many as the manifest says."""
    done = 0
    for part in table.parts:
        for rows in table.batches(table.footer(part, [])[0], schema.names):
            yield rows.replace_schema_metadata(None)
            done += len(rows)
            on_rows(done)
    if done != table.rows:
        raise UserError(
            f"the manifest of {table} says {table.rows} rows, but the parts hold {done}; encode the images"
            f" again"
        )
