import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lbae.core.direct import sample_direct
from lbae.core.hyperplane import BLOCK, HyperplanePrior, gram_matrix, hyperplane_factor, split
from lbae.core.kernel import moment_sums
from lbae.core.packing import pack
from tests import reference


def unit_rows(seed: int, size: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    factor = np.tril(rng.normal(size=(size, size)))
    factor[0, 0] = 1.0
    return factor / np.linalg.norm(factor, axis=1, keepdims=True)


def prior_of(*factors: np.ndarray) -> HyperplanePrior:
    weights = np.full(len(factors), 1 / len(factors))
    return HyperplanePrior(weights=weights, factors=np.stack(factors).astype(np.float32))


def test_pair_moments_of_samples_follow_the_arcsine_law():
    factor = unit_rows(3, 13)
    latents = prior_of(factor).sample(200_000, seed=7).astype(np.float32)
    augmented = np.concatenate([np.ones((len(latents), 1), dtype=np.float32), latents], axis=1)
    expected = 2 / np.pi * np.arcsin(np.clip(factor @ factor.T, -1, 1))
    # Standard error of a mean of +-1 over 200,000 draws is at most 0.0022; five of them.
    np.testing.assert_allclose(augmented.T @ augmented / len(latents), expected, atol=0.0112)


def test_arcsine_law_agrees_with_orthant_probabilities():
    for correlation in (-0.7, 0.0, 0.4, 0.9):
        together = 2 * reference.orthant_probability(correlation)
        assert abs((2 * together - 1) - 2 / np.pi * np.arcsin(correlation)) < 1e-6


def test_gram_matrix_inverts_the_arcsine_law():
    moments = np.array([[1.0, -0.3], [-0.3, 1.0]])
    np.testing.assert_allclose(2 / np.pi * np.arcsin(gram_matrix(moments)), moments, atol=1e-12)


def test_samples_have_the_moments_they_were_fitted_to():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(5000, 4)) @ rng.normal(size=(4, 12)) + rng.normal(size=(5000, 12)) + 0.5 * rng.normal(size=12)
    latents = np.where(hidden >= 0, np.int8(1), np.int8(-1))
    sums = moment_sums(pack(latents), 12)
    drawn = prior_of(hyperplane_factor(sums.moment_matrix)).sample(100_000, seed=1).astype(np.float32)
    np.testing.assert_allclose(drawn.mean(axis=0), sums.mean, atol=0.02)
    np.testing.assert_allclose(drawn.T @ drawn / len(drawn), sums.second, atol=0.02)


@given(st.integers(0, 2**32 - 1), st.integers(2, 10))
@settings(deadline=None)
def test_split_agrees_with_the_definition(seed, size):
    factor = unit_rows(seed, size).astype(np.float32)
    normals = np.random.default_rng(seed).normal(size=(5, size)).astype(np.float32)
    expected = [reference.split(factor.astype(np.float64), normal.astype(np.float64)) for normal in normals]
    np.testing.assert_array_equal(split(factor, normals), expected)


@given(st.integers(1, 2 * BLOCK + 3), st.integers(0, 2**31))
@settings(deadline=None, max_examples=20)
def test_a_latent_does_not_depend_on_how_many_are_drawn(count, seed):
    prior = prior_of(unit_rows(1, 9), unit_rows(2, 9), unit_rows(3, 9))
    np.testing.assert_array_equal(prior.sample(count, seed), prior.sample(2 * BLOCK + 3, seed)[:count])


def test_seeds_differ_and_repeat():
    prior = prior_of(unit_rows(1, 30))
    np.testing.assert_array_equal(prior.sample(64, 5), prior.sample(64, 5))
    assert (prior.sample(64, 5) != prior.sample(64, 6)).any()


def test_nothing_asked_for_is_nothing_given():
    assert prior_of(unit_rows(1, 9)).sample(0, 1).shape == (0, 8)


def test_components_are_drawn_by_their_weights():
    always = np.eye(5)
    always[:, 0] = [1, 1, 1, 1, 1]
    always[1:, 1:] = 1e-4 * np.eye(4)
    never = always.copy()
    never[1:, 0] = -1
    prior = HyperplanePrior(weights=np.array([0.25, 0.75]), factors=np.stack([always, never]).astype(np.float32))
    share = (prior.sample(20_000, 0) > 0).all(axis=1).mean()
    assert abs(share - 0.25) < 0.02


def test_direct_binarisation_misses_the_correlations_that_the_hyperplane_hits():
    latents = np.ones((4000, 2), dtype=np.int8)
    latents[np.random.default_rng(0).random(4000) < 0.5] *= -1
    flipped = np.random.default_rng(1).random(4000) < 0.1
    latents[flipped, 1] *= -1
    sums = moment_sums(pack(latents), 2)
    target = sums.second[0, 1]
    direct = sample_direct(sums, 100_000, np.random.default_rng(2)).astype(float)
    hyperplane = prior_of(hyperplane_factor(sums.moment_matrix)).sample(100_000, 2).astype(float)
    assert abs((hyperplane[:, 0] * hyperplane[:, 1]).mean() - target) < 0.02
    # The sign of a Gaussian with correlation rho has 2/pi asin(rho), here 0.59 in place of 0.8.
    assert abs((direct[:, 0] * direct[:, 1]).mean() - 2 / np.pi * np.arcsin(target)) < 0.02
