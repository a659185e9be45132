"""Packed latents as a Lance table: the columns of the latent table, the latent as a vector of uint8."""

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from lbae.core.latents.packing import packed_width, to_ubinary
from lbae.errors import LbaeError, UserError
from lbae.io.artifacts.latent_table import packed_latents
from lbae.io.artifacts.latent_tables import LatentTables
from lbae.io.storage.location import Location

TABLE = "latents.lance"


def write_lance(
    folder: Location, table: LatentTables, schema: pa.Schema, batches: Iterable[pa.Table]
) -> list[str]:
    """Write ``latents.lance``, without an index: exact searches need none, and an index would approximate.

    Memory does not grow with the rows.
    """
    lance = _library()
    width = packed_width(table.latent_dim)
    position = schema.get_field_index("latent")
    vectors = schema.set(position, pa.field("latent", pa.list_(pa.uint8(), width))).remove_metadata()
    failed: list[LbaeError] = []

    def converted() -> Iterator[pa.RecordBatch]:
        try:
            for rows in batches:
                flat = pa.array(to_ubinary(packed_latents(rows)).ravel())
                column = pa.FixedSizeListArray.from_arrays(flat, width)
                yield from rows.set_column(position, vectors.field(position), column).to_batches()
        except LbaeError as error:
            failed.append(error)
            raise

    place = folder / TABLE
    with _local(place) as path:
        try:
            lance.write_dataset(pa.RecordBatchReader.from_batches(vectors, converted()), path)
        except Exception as error:
            if not failed:
                raise
            raise failed[0] from error  # Lance's message would hold the traceback of the first
    return [f"{TABLE}/{name}" for name, _ in place.files()]


def _library() -> Any:
    try:
        import lance
    except ImportError as error:
        raise UserError(
            f"the format lance needs the package pylance, which cannot be imported ({error}); pip install"
            f" 'lbae[lance]', or choose --format npy or faiss"
        ) from error
    return lance


@contextmanager
def _local(place: Location) -> Iterator[str]:
    """A local path to write to, uploaded to ``place`` at the end.

    Lance's own clients of object stores know neither fsspec's other protocols nor its configuration.
    """
    if place.is_local:
        yield place.path
        return
    with tempfile.TemporaryDirectory(prefix="lbae-lance-") as temporary:
        yield temporary
        for path in sorted(path for path in Path(temporary).rglob("*") if path.is_file()):
            with path.open("rb") as source, (place / str(path.relative_to(temporary))).writing() as target:
                shutil.copyfileobj(source, target)
