"""Packed latents as one NumPy array, uint8 (rows, bytes), which ``np.load`` can map into memory."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from lbae.core.latents.packing import packed_width, to_ubinary
from lbae.io.artifacts.latent_table import packed_latents
from lbae.io.artifacts.latent_tables import LatentTables
from lbae.io.storage.location import Location
from lbae.io.vectors.keys_file import KEYS, keys_file

ARRAY = "latents.npy"


def write_npy(
    folder: Location, table: LatentTables, schema: pa.Schema, batches: Iterable[pa.Table]
) -> list[str]:
    """Write ``latents.npy`` and ``keys.parquet``; memory does not grow with the rows."""
    shape = table.rows, packed_width(table.latent_dim)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with (folder / ARRAY).writing() as file, keys_file(folder, schema) as write_keys:
        np.lib.format.write_array_header_1_0(file, header)
        for rows in batches:
            file.write(to_ubinary(packed_latents(rows)).tobytes())
            write_keys(rows)
    return [ARRAY, KEYS]
