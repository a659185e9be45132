"""Moments by formula against moments of many draws."""

import numpy as np
import pytest
from scipy import stats

from lbae.core.latents.packing import pack
from lbae.core.moments.kernel import moment_sums
from lbae.core.prior.fidelity import expected_moments, moment_errors
from lbae.core.prior.gaussian import upper_quadrant
from lbae.core.prior.prior import Prior, Sampler
from lbae.core.prior.samplers import fit_sampler

N, DRAWS = 24, 200_000


def skewed_latents(rows: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((rows, N)) @ rng.standard_normal((N, N)) + 2 * rng.standard_normal(N)
    latents = np.where(values >= 0, np.int8(1), np.int8(-1))
    latents[:, 3] = 1
    return latents


@pytest.mark.parametrize("sampler", ["hyperplane", "gaussian", "paper", "direct", "independent"])
def test_formulas_agree_with_draws(sampler: Sampler):
    one = fit_sampler(sampler, moment_sums(pack(skewed_latents(500)), N))
    other = fit_sampler(sampler, moment_sums(pack(-skewed_latents(300)), N))
    prior = Prior(
        sampler=sampler, weights=np.array([0.7, 0.3]), factors=np.concatenate([one.factors, other.factors])
    )
    drawn = moment_sums(pack(prior.sample(DRAWS, seed=0)), N)
    errors = moment_errors(*expected_moments(prior), drawn.mean, drawn.second)
    assert errors["means_max"] < 5 / np.sqrt(DRAWS)
    assert errors["pairs_max"] < 5 / np.sqrt(DRAWS)


@pytest.mark.parametrize("correlation", [-0.999, -0.7, 0.0, 0.3, 0.95])
def test_upper_quadrant_against_scipy(correlation):
    thresholds = np.array([-2.0, -0.3, 0.0, 1.0, 2.5])
    h, k = (grid.ravel() for grid in np.meshgrid(thresholds, thresholds))
    covariance = [[1, correlation], [correlation, 1]]
    expected = [
        stats.multivariate_normal.cdf([-x, -y], cov=covariance, abseps=1e-10)
        for x, y in zip(h, k, strict=True)
    ]
    found = upper_quadrant(h, k, np.full(len(h), correlation))
    np.testing.assert_allclose(found, expected, atol=2e-5)
