"""Packed latents as a FAISS index that searches all of them, ``IndexBinaryFlat``."""

from collections.abc import Iterable

import faiss
import pyarrow as pa

from lbae.core.latents.packing import packed_width, to_ubinary
from lbae.io.artifacts.latent_table import packed_latents
from lbae.io.artifacts.latent_tables import LatentTables
from lbae.io.storage.location import Location
from lbae.io.vectors.keys_file import KEYS, keys_file

INDEX = "latents.faiss"


def write_faiss(
    folder: Location, table: LatentTables, schema: pa.Schema, batches: Iterable[pa.Table]
) -> list[str]:
    """Write ``latents.faiss`` and ``keys.parquet``.

    The index is built in memory, where FAISS also searches it. It takes up to three times the bytes of all
    latents while it grows.
    """
    index = faiss.IndexBinaryFlat(8 * packed_width(table.latent_dim))
    with keys_file(folder, schema) as write_keys:
        for rows in batches:
            index.add(to_ubinary(packed_latents(rows)))
            write_keys(rows)
    with (folder / INDEX).writing() as file:
        to_file = faiss.PyCallbackIOWriter(file.write)  # type: ignore[attr-defined]  # FAISS's stubs lack it
        faiss.write_index_binary(index, to_file)
    return [INDEX, KEYS]
