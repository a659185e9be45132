import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbae.core.latents.packing import pack, packed_width, unpack
from tests import reference


@given(st.integers(0, 5), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_pack_agrees_with_the_definition_and_unpack_inverts_it(rows, n, seed):
    latents = np.random.default_rng(seed).choice(np.array([-1, 1], dtype=np.int8), size=(rows, n))
    packed = pack(latents)
    assert packed.shape == (rows, packed_width(n))
    np.testing.assert_array_equal(packed, reference.pack(latents))
    np.testing.assert_array_equal(unpack(packed, n), latents)


def test_bit_order_is_least_significant_first():
    latent = np.array([[1, -1, -1, -1, -1, -1, -1, -1, -1, 1]], dtype=np.int8)
    assert pack(latent).tolist() == [[0b00000001, 0b00000010]]


def test_set_padding_bits_are_refused():
    with pytest.raises(ValueError, match="padding bits are set in packed latents of N = 10"):
        unpack(np.array([[0, 0b100]], dtype=np.uint8), 10)


def test_wrong_width_is_refused():
    with pytest.raises(ValueError, match="3 bytes wide; N = 10 needs 2"):
        unpack(np.zeros((1, 3), dtype=np.uint8), 10)
