import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lbae.core.memory import nearest_distances

LATENTS = hnp.arrays(np.int8, st.tuples(st.integers(1, 9), st.just(13)), elements=st.sampled_from([-1, 1]))


@given(LATENTS, LATENTS)
def test_the_nearest_distance_is_the_least_hamming_distance(latents, among):
    expected = (latents[:, None] != among[None]).sum(axis=2).min(axis=1)
    np.testing.assert_array_equal(nearest_distances(latents, among), expected)


def test_many_latents_are_searched_in_chunks():
    among = np.full((40_000, 8), -1, dtype=np.int8)
    among[33_000] = 1
    assert nearest_distances(np.ones((1, 8), dtype=np.int8), among).tolist() == [0]
