import numpy as np
import pytest

from lbae.core.latents.hamming import nearest
from lbae.core.latents.packing import pack


@pytest.mark.parametrize(("rows", "width", "count"), [(1000, 200, 20), (5, 21, 20), (1, 8, 1)])
def test_the_nearest_have_the_smallest_hamming_distances(rows, width, count):
    rng = np.random.default_rng(rows)
    latents = rng.choice(np.array([-1, 1], dtype=np.int8), size=(rows, width))
    queries = latents[: min(3, rows)] * np.where(rng.random((min(3, rows), width)) < 0.1, -1, 1).astype(
        np.int8
    )
    distances, found = nearest(pack(queries), pack(latents), count)
    every = (queries[:, None] != latents[None]).sum(axis=2)
    np.testing.assert_array_equal(distances, np.sort(every, axis=1)[:, :count])
    np.testing.assert_array_equal(np.take_along_axis(every, found, axis=1), distances)
    assert found.shape == (len(queries), min(count, rows))
