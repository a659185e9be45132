from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbae.core.prior.correlation import correlation_factor, nearest_correlation
from tests import reference


def gram_like(seed: int, size: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(size + 5, 3)) @ rng.normal(size=(3, size)) + 0.3 * rng.normal(size=size)
    y = np.where(z >= 0, 1.0, -1.0)
    matrix = np.sin(np.pi / 2 * (y.T @ y / len(y)))
    np.fill_diagonal(matrix, 1.0)
    return matrix


@given(st.integers(0, 2**32 - 1), st.integers(2, 14), st.sampled_from([0.0, 1e-6, 1e-2]))
@settings(deadline=None, max_examples=40)
def test_as_near_as_alternating_projections_and_feasible(seed, size, floor):
    matrix = gram_like(seed, size)
    ours, theirs = nearest_correlation(matrix, floor), reference.nearest_correlation(matrix, floor)
    assert np.diag(ours).tolist() == [1.0] * size
    assert np.linalg.eigvalsh(ours)[0] >= floor - 1e-7
    assert np.linalg.norm(ours - matrix) <= np.linalg.norm(theirs - matrix) * (1 + 1e-6) + 1e-7


def test_a_correlation_matrix_is_left_alone():
    matrix = np.array([[1.0, 0.3], [0.3, 1.0]])
    np.testing.assert_array_equal(nearest_correlation(matrix, 1e-6), matrix)


def test_a_matrix_that_only_rounding_makes_indefinite_is_kept():
    matrix = np.sign(gram_like(0, 12)[:, :1] @ gram_like(0, 12)[:1])
    np.testing.assert_allclose(nearest_correlation(matrix), matrix, atol=1e-10)


@pytest.mark.parametrize("floor", [0.0, 1e-6, 1e-2])
def test_a_repair_takes_few_eigendecompositions(monkeypatch, floor):
    """The matrix is a hard one: two constant bits, two equal ones and more bits than rows."""
    rng = np.random.default_rng(1)
    latents = np.sign(rng.normal(size=(60, 80)) + rng.normal(size=(60, 1)))
    latents[:, 3:5], latents[:, 7] = 1, latents[:, 8]
    matrix = np.sin(np.pi / 2 * (latents.T @ latents / 60))
    counted = Mock(side_effect=np.linalg.eigh)
    monkeypatch.setattr(np.linalg, "eigh", counted)
    nearest_correlation(matrix, floor)
    assert 1 < counted.call_count <= 8


def test_higham_example():
    # N. J. Higham 2002, section 4: the nearest correlation matrix of the 3x3 tridiagonal of ones.
    matrix = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    expected = np.array([[1.0, 0.7607, 0.1573], [0.7607, 1.0, 0.7607], [0.1573, 0.7607, 1.0]])
    np.testing.assert_allclose(nearest_correlation(matrix), expected, atol=5e-5)


@given(st.integers(0, 2**32 - 1), st.integers(2, 20))
@settings(deadline=None, max_examples=30)
def test_factor_has_unit_rows_and_the_boundary_first(seed, size):
    matrix = gram_like(seed, size)
    factor = correlation_factor(matrix, 1e-6)
    np.testing.assert_allclose(np.linalg.norm(factor, axis=1), 1.0, rtol=1e-12)
    assert factor[0, 0] == 1.0
    assert not np.triu(factor, 1).any()
    np.testing.assert_allclose(factor @ factor.T, nearest_correlation(matrix, 1e-6), atol=1e-6)


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        nearest_correlation(np.array([[1.0, np.nan], [np.nan, 1.0]]))


def test_a_floor_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"floor is 1\.5; allowed: 0 to less than 1"):
        nearest_correlation(np.eye(2), 1.5)
