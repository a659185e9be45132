import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lbae.core.prior.memorization import memorizes, nearest_distances, nearest_facts

LATENTS = hnp.arrays(np.int8, st.tuples(st.integers(1, 9), st.just(13)), elements=st.sampled_from([-1, 1]))


@given(LATENTS, LATENTS)
def test_the_nearest_distance_is_the_least_hamming_distance(latents, among):
    expected = (latents[:, None] != among[None]).sum(axis=2).min(axis=1)
    np.testing.assert_array_equal(nearest_distances(latents, among), expected)


def test_many_latents_are_searched_in_chunks():
    among = np.full((40_000, 8), -1, dtype=np.int8)
    among[33_000] = 1
    assert nearest_distances(np.ones((1, 8), dtype=np.int8), among).tolist() == [0]


@pytest.mark.parametrize(("flips", "expected"), [(3, False), (4, False), (2, True), (0, True)])
def test_latents_nearer_than_unseen_ones_count_as_memorized(flips, expected):
    rng = np.random.default_rng(0)
    known = rng.choice(np.array([-1, 1], dtype=np.int8), size=(500, 64))

    def flipped(bits: int) -> np.ndarray:
        near = known.copy()
        near[:, :bits] *= -1
        return near

    assert memorizes(nearest_facts(flipped(flips), known), nearest_facts(flipped(3), known)) is expected


def test_a_copy_counts_as_memorized_at_any_percentiles():
    facts = {"percentiles_1_50": [3.0, 9.0], "copies": 0, "queries": 100}
    assert memorizes({**facts, "copies": 1}, facts)
    assert not memorizes({**facts, "copies": 1}, {**facts, "copies": 1})


def test_copies_are_compared_by_their_shares():
    known = np.where(np.arange(64)[:, None] >> np.arange(8) & 1, 1, -1).astype(np.int8)
    unseen = known[:20].copy()
    unseen[2:, 7] = 1  # 2 of 20 are copies
    drawn = np.tile(unseen, (10, 1))
    assert nearest_facts(drawn, known) == {"percentiles_1_50": [0.0, 1.0], "copies": 20, "queries": 200}
    assert not memorizes(nearest_facts(drawn, known), nearest_facts(unseen, known))
    drawn[-1] = known[0]
    assert memorizes(nearest_facts(drawn, known), nearest_facts(unseen, known))
