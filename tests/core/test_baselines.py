"""The sampler, the interpolation and the edit of the paper's code, which serve as baselines."""

import numpy as np
import pytest
from hypothesis import given, strategies

from lbae.core.latents.packing import pack
from lbae.core.moments.moment_accumulator import sum_packed
from lbae.core.prior.baselines import paper_edit, paper_path
from lbae.core.prior.samplers import fit_sampler
from lbae.errors import UserError
from tests import reference
from tests.core.test_attributes import BITS, LATENTS, PRESENT


def test_the_papers_sampler_ignores_attributes():
    packed = pack(LATENTS[:40])  # so few that the matrix needs repair
    with_attributes = fit_sampler("paper", sum_packed(packed, BITS, ("a", "b"), PRESENT[:40], ~PRESENT[:40]))
    np.testing.assert_array_equal(
        with_attributes.factors, fit_sampler("paper", sum_packed(packed, BITS)).factors
    )
    assert np.linalg.norm(with_attributes.factors[0], axis=1).max() > 1.01, "repaired"
    with pytest.raises(UserError, match=r"unknown attribute 'a' \(known: none\)"):
        with_attributes.sample_given(1, 0, {"a": True})


@given(strategies.integers(0, 2**32 - 1), strategies.integers(2, 40))
def test_guessed_normals_of_orthogonal_vectors_are_exact(seed, n):
    """For uncorrelated bits the guess is right: the path has both ends; every differing bit flips once."""
    rng = np.random.default_rng(seed)
    vectors = np.linalg.qr(rng.normal(size=(n, n)))[0]
    ends = rng.choice(np.array([-1, 1], dtype=np.int8), size=(2, n))
    ends[1, 0] = ends[0, 0]  # otherwise the normals may be opposite, between which slerp is undefined
    path = paper_path(vectors, ends, 6)
    np.testing.assert_array_equal(path[[0, -1]], ends)
    assert (path[1:] != path[:-1]).sum() == (ends[0] != ends[1]).sum()


def test_guessed_normals_of_correlated_vectors_miss_bits():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(100, 10))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ends = rng.choice(np.array([-1, 1], dtype=np.int8), size=(2, 100))
    assert (paper_path(vectors, ends, 3)[[0, -1]] != ends).sum() > 20


@given(strategies.integers(0, 2**32 - 1), strategies.integers(2, 60))
def test_ends_equal_those_of_the_papers_code(seed, n):
    rng = np.random.default_rng(seed)
    vectors = np.tril(rng.normal(size=(n, n)) + 2 * rng.normal(size=(n, 1)))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ends = rng.choice(np.array([-1, 1], dtype=np.int8), size=(2, n))
    ends[:, :2] = [1, -1]
    expected = [np.where(vectors @ reference.paper_normal(vectors, end) >= 0, 1, -1) for end in ends]
    np.testing.assert_array_equal(paper_path(vectors, ends, 2), expected)


def test_a_latent_of_equal_bits_has_a_normal():
    path = paper_path(np.eye(3), np.array([[1, 1, 1], [1, 1, -1]], dtype=np.int8), 3)
    np.testing.assert_array_equal(path[[0, -1]], [[1, 1, 1], [1, 1, -1]])


@pytest.mark.parametrize(("mean", "bit"), [(0.13, 1), (-0.13, -1), (0.12, None), (-0.05, None)])
def test_an_edit_takes_the_sign_of_means_beyond_the_threshold(mean, bit):
    latents = np.array([[-1], [1]], dtype=np.int8)
    expected = latents if bit is None else np.full((2, 1), bit)
    np.testing.assert_array_equal(paper_edit(np.array([mean]), latents), expected)
