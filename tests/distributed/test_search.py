"""Searching a latent table finds what a look at every row finds."""

import numpy as np
import pytest

from lbae.core.packing import pack
from lbae.distributed.neighbours import nearest_in
from lbae.io.latent_table import open_latent_table
from tests.conftest import write_latents


@pytest.mark.parametrize("k", [1, 20, 2000])
def test_the_nearest_of_a_table(ray_session, tmp_path, k):
    rng = np.random.default_rng(0)
    latents = rng.choice(np.array([-1, 1], dtype=np.int8), size=(1000, 90))
    table = open_latent_table(write_latents(tmp_path / "latents", latents, {"label": list(range(1000))}, parts=4))
    query = latents[17] * np.where(rng.random(90) < 0.1, -1, 1).astype(np.int8)
    hits = nearest_in(table, pack(np.stack([latents[3], query])), k).hits(1)
    every = (latents != query).sum(axis=1)
    assert [hit.distance for hit in hits] == sorted(every)[:k]
    rows = [table.row(hit.part, hit.group, hit.row) for hit in hits]
    assert [every[row["label"]] for row in rows] == [hit.distance for hit in hits]
    assert len({row["key"] for row in rows}) == min(k, 1000)
    assert rows[0] == {"key": "k17", "label": 17}
