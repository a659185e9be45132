import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from lbae.core.prior.gaussian import gaussian_correlation, tetrachoric


@given(st.floats(-0.99, 0.99), st.floats(-2, 2), st.floats(-2, 2))
@settings(deadline=None)
def test_the_tetrachoric_correlation_gives_back_the_quadrant(rho, h, k):
    p, q = special.ndtr(h), special.ndtr(k)
    both = float(stats.multivariate_normal(mean=[0, 0], cov=[[1, rho], [rho, 1]]).cdf([h, k]))
    if not max(0, p + q - 1) + 1e-4 < both < min(p, q) - 1e-4:
        return  # next to an empty cell the correlation is not determined
    (found,) = tetrachoric(np.array([p]), np.array([q]), np.array([both]))
    assert found == pytest.approx(rho, abs=1e-4)


def test_pairs_do_not_depend_on_their_neighbours():
    rng = np.random.default_rng(0)
    p, q = rng.uniform(0.2, 0.8, (2, 500))
    both = p * q + 0.05
    whole = tetrachoric(p, q, both)
    np.testing.assert_allclose(
        [tetrachoric(p[i : i + 1], q[i : i + 1], both[i : i + 1])[0] for i in range(50)],
        whole[:50],
        atol=1e-7,
    )
    assert tetrachoric(p[:0], q[:0], both[:0]).shape == (0,)


def test_an_empty_cell_counts_half_a_row():
    """Two bits that agree in all of 100 rows count as if half a row held [+1, -1] and half a row [-1, +1]."""
    found = gaussian_correlation(np.zeros(2), np.ones((2, 2)), 100)[0, 1]
    # At thresholds of 0 the quadrant is 1/4 + asin(rho) / (2 pi).
    assert found == pytest.approx(np.sin(2 * np.pi * (0.5 - 0.005 - 0.25)), abs=1e-6)


def test_bits_that_never_vary_have_no_correlation():
    mean, second = np.array([1.0, 0.2, 0.0]), np.eye(3)
    second[0, 1] = second[1, 0] = 0.2
    np.testing.assert_array_equal(gaussian_correlation(mean, second, 50)[0], [1, 0, 0])
