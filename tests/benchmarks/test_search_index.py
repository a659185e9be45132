"""A search by an index against a scan of all latents, in one process each."""

import numpy as np
import pytest

from lbae.core.latents.packing import pack
from lbae.distributed.latent_table.neighbours import nearest_in
from lbae.distributed.search_index.index_search import hits_by_index
from lbae.io.artifacts.latent_tables import open_latent_tables
from lbae.io.artifacts.search_index import open_search_index
from lbae.jobs.build.index import index
from tests.conftest import write_packed

ROWS, BITS, GROUPS, PROBES = 1_000_000, 600, 2000, 16


@pytest.mark.parametrize("flipped", [0.05, 0.2])
def test_searching_by_an_index(tmp_path, compare, flipped):
    """Latents around 2,000 random ones, each bit flipped with the probability ``flipped``."""
    rng = np.random.default_rng(0)
    middles = rng.integers(0, 2, (GROUPS, BITS), dtype=np.int8)
    packed = np.concatenate(
        [
            pack(2 * (middles[rng.integers(0, GROUPS, 2**15)] ^ (rng.random((2**15, BITS)) < flipped)) - 1)
            for _ in range(-(-ROWS // 2**15))
        ]
    )[:ROWS]
    table = open_latent_tables(write_packed(tmp_path / "latents", packed, BITS, parts=16, row_group=2**16))
    result = index(latents=table.uris, out=str(tmp_path / "index"))
    opened, queries = open_search_index(str(tmp_path / "index"), table), iter(packed[::1000])
    print(f"\n{result['seconds']} s to write the index, recall {result['recall']}")
    compare(
        lambda: hits_by_index(table, opened, PROBES, next(queries), 20),
        lambda: nearest_in(table, next(queries)[None], 20),
        f"as fast by {PROBES} of {opened.lists} lists as by a scan",
    )
