import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from lbae.core.latents.packing import pack
from lbae.core.moments import moment_accumulator
from lbae.core.moments.moment_accumulator import BLOCK_ROWS, MomentAccumulator, sum_packed
from tests import reference


@pytest.fixture(scope="module", params=[True, False], ids=["int8", "float32"])
def arithmetic(request):
    """Products in int8 and in float32, whichever of them this CPU would choose."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": request.param})
        yield


def rows(seed: int, count: int, n: int, attributes: int):
    rng = np.random.default_rng(seed)
    latents = rng.choice(np.array([-1, 1], dtype=np.int8), size=(count, n))
    value = rng.integers(-1, 2, size=(count, attributes))
    return latents, value == 1, value == -1


@pytest.mark.usefixtures("arithmetic")
@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.integers(1, 20), st.integers(0, 3))
@example(0, 5, 16, 0)  # no padding bits
@example(1, 0, 3, 1)
def test_sums_equal_the_definition(seed, count, n, attributes):
    latents, present, absent = rows(seed, count, n, attributes)
    names = tuple(f"a{i}" for i in range(attributes))
    sums = sum_packed(pack(latents), n, names, present, absent)
    assert sums.count == count
    np.testing.assert_array_equal(sums.sums, reference.moment_sums(latents, present, absent))


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("n", [511, 512, 513, 900])
def test_sums_do_not_depend_on_strips_and_blocks(n):
    count = BLOCK_ROWS + 77
    latents, present, absent = rows(n, count, n, 2)
    s = np.concatenate([latents, present, absent, np.ones((count, 1))], axis=1)
    found = sum_packed(pack(latents), n, ("a", "b"), present, absent)
    np.testing.assert_array_equal(found.sums, s.T @ s)  # float64 is exact below 2**53


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 40), min_size=1, max_size=6), st.randoms())
def test_any_sharding_and_order_gives_the_same_sums(seed, cuts, random):
    latents, present, absent = rows(seed, 40, 17, 2)
    names = ("a", "b")
    whole = sum_packed(pack(latents), 17, names, present, absent)
    order = np.random.default_rng(seed).permutation(40)
    edges = sorted({0, 40, *cuts})
    shards = [order[a:b] for a, b in itertools.pairwise(edges)]
    random.shuffle(shards)
    parts = [sum_packed(pack(latents[s]), 17, names, present[s], absent[s]) for s in shards]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    np.testing.assert_array_equal(total.sums, whole.sums)
    np.testing.assert_array_equal((total - parts[0]).sums, whole.sums - parts[0].sums)


def test_padding_bits_and_long_blocks_are_refused():
    none = np.zeros((1, 0), dtype=bool)
    total = MomentAccumulator(11, block_rows=16)
    with pytest.raises(ValueError, match="padding bits are set in packed latents of N = 11"):
        total.unpack(np.array([[255, 255]], dtype=np.uint8), none, none)
    with pytest.raises(ValueError, match="3 bytes wide; N = 11 needs 2"):
        total.unpack(np.zeros((1, 3), dtype=np.uint8), none, none)
    none = np.zeros((17, 0), dtype=bool)
    with pytest.raises(ValueError, match="a block has 17 rows; allowed: at most 16"):
        total.unpack(np.zeros((17, 2), dtype=np.uint8), none, none)


def test_int8_only_where_the_processor_has_it(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_vnni": False})
    assert not moment_accumulator.has_int8_products()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True})
    assert moment_accumulator.has_int8_products()
