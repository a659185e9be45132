"""New codes for the decoders of all bottlenecks."""

import numpy as np
import pytest

from lbae.core.prior.samplers import draw_codes


@pytest.fixture
def codes() -> np.ndarray:
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(4_000, 4)) @ rng.normal(size=(4, 4)) + [3, 0, -2, 0]
    return mixed.astype(np.float32)


def test_real_codes_have_the_mean_and_covariance_of_training(codes):
    drawn = draw_codes("continuous", codes, 20_000, 1)
    assert drawn.dtype == np.float32
    np.testing.assert_allclose(drawn.mean(axis=0), codes.mean(axis=0), atol=0.1)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(codes.T), atol=0.25)


def test_codes_of_a_variational_autoencoder_are_standard_normal_at_any_training_codes(codes):
    drawn = draw_codes("gaussian", codes, 20_000, 1)
    np.testing.assert_allclose(drawn.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(np.cov(drawn.T), np.eye(4), atol=0.05)


def test_bits_have_the_means_and_pairs_of_training(codes):
    bits = np.where(codes > 0, np.float32(1), np.float32(-1))
    drawn = draw_codes("bernoulli", bits, 20_000, 1)
    assert set(np.unique(drawn)) == {-1, 1}
    np.testing.assert_allclose(drawn.mean(axis=0), bits.mean(axis=0), atol=0.05)
    np.testing.assert_allclose(drawn.T @ drawn / len(drawn), bits.T @ bits / len(bits), atol=0.06)


def test_codes_may_be_one_number_wide(codes):
    assert draw_codes("continuous", codes[:, :1], 10, 0).shape == (10, 1)
