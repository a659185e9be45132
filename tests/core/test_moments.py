import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbae.core import moments
from lbae.core.moments import MomentSums, moment_sums
from lbae.core.packing import pack
from tests import reference


def rows(seed: int, count: int, n: int, attributes: int):
    rng = np.random.default_rng(seed)
    latents = rng.choice(np.array([-1, 1], dtype=np.int8), size=(count, n))
    value = rng.integers(-1, 2, size=(count, attributes))
    return latents, value == 1, value == -1


@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.integers(1, 20), st.integers(0, 3))
@settings(deadline=None)
def test_sums_equal_the_definition(seed, count, n, attributes):
    latents, present, absent = rows(seed, count, n, attributes)
    names = tuple(f"a{i}" for i in range(attributes))
    sums = moment_sums(pack(latents), n, names, present, absent)
    assert sums.count == count
    np.testing.assert_array_equal(sums.sums, reference.moment_sums(latents, present, absent))


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 40), min_size=1, max_size=6), st.randoms())
@settings(deadline=None)
def test_any_sharding_and_order_gives_the_same_sums(seed, cuts, random):
    latents, present, absent = rows(seed, 40, 17, 2)
    names = ("a", "b")
    whole = moment_sums(pack(latents), 17, names, present, absent)
    order = np.random.default_rng(seed).permutation(40)
    edges = sorted({0, 40, *cuts})
    shards = [order[a:b] for a, b in itertools.pairwise(edges)]
    random.shuffle(shards)
    parts = [moment_sums(pack(latents[s]), 17, names, present[s], absent[s]) for s in shards]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    np.testing.assert_array_equal(total.sums, whole.sums)


def test_blocks_do_not_show(monkeypatch):
    latents, present, absent = rows(1, 100, 9, 1)
    whole = moment_sums(pack(latents), 9, ("a",), present, absent)
    monkeypatch.setattr(moments, "_BLOCK_ROWS", 7)
    np.testing.assert_array_equal(moment_sums(pack(latents), 9, ("a",), present, absent).sums, whole.sums)


def test_moment_matrix_has_the_boundary_first():
    latents, _, _ = rows(2, 50, 5, 0)
    sums = moment_sums(pack(latents), 5)
    augmented = np.concatenate([np.ones((50, 1)), latents], axis=1)
    np.testing.assert_allclose(sums.moment_matrix, augmented.T @ augmented / 50, rtol=1e-15)


def test_sums_of_other_attributes_do_not_add():
    a = MomentSums(sums=np.zeros((4, 4), dtype=np.int64), latent_dim=1, attributes=("a",))
    b = MomentSums(sums=np.zeros((4, 4), dtype=np.int64), latent_dim=1, attributes=("b",))
    with pytest.raises(ValueError, match="cannot be added"):
        a + b
