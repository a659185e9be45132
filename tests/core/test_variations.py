import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbae.core.latents.variations import Variations
from lbae.core.prior.dichotomised_gaussian import DichotomisedGaussian
from lbae.core.prior.gaussian import with_thresholds
from lbae.core.prior.prior import Prior
from lbae.errors import UserError

BITS = 24


def variations(components: int = 3, attributes: int = 0, seed: int = 0) -> Variations:
    """Variations under random components; with ``attributes``, their rows stand before the bits."""
    rng = np.random.default_rng(seed)
    size, factors = attributes + BITS, []
    for _ in range(components):
        loadings = rng.normal(size=(size, 4))
        covariance = loadings @ loadings.T + 3 * np.eye(size)
        scale = 1 / np.sqrt(np.diag(covariance))
        lower = np.linalg.cholesky(covariance * np.outer(scale, scale))
        factors.append(with_thresholds(0.8 * rng.normal(size=size), lower))
    prior = Prior(
        sampler="gaussian",
        weights=np.full(components, 1 / components),
        factors=np.array(factors, dtype=np.float32),
        attributes=tuple(f"a{i}" for i in range(attributes)),
    )
    return Variations(prior)


def component_model(prior: Prior, component: int) -> DichotomisedGaussian:
    rows = prior.factors[component, -BITS:].astype(float)
    return DichotomisedGaussian(shifts=rows[:, 0], correlation=rows[:, 1:] @ rows[:, 1:].T)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_without_strength_every_variation_is_the_latent_itself(seed, count):
    latents = np.random.default_rng(seed).choice(np.array([-1, 1], dtype=np.int8), (3, BITS))
    varied = variations().vary(latents, count, seed, 0.0)
    np.testing.assert_array_equal(varied, latents.repeat(count, axis=0))


@pytest.mark.parametrize("attributes", [0, 2])
def test_at_full_strength_variations_have_the_moments_of_the_latents_component(attributes):
    made = variations(attributes=attributes)
    latent = made.prior.sample(1, 3)
    (component,) = made.components(latent)
    varied = made.vary(latent, 40_000, 0, 1.0)
    model = component_model(made.prior, component)
    np.testing.assert_allclose(varied.mean(axis=0), model.mean, atol=0.02)
    np.testing.assert_allclose(np.cov(varied.T.astype(float)), model.covariance, atol=0.03)


def test_stronger_variations_change_more_bits():
    made = variations()
    latents = made.prior.sample(64, 1)
    strengths = (0.0, 0.1, 0.3, 0.6, 1.0)
    changed = [(made.vary(latents, 8, 0, s) != latents.repeat(8, axis=0)).mean() for s in strengths]
    assert changed == sorted(changed)
    assert 0.01 < changed[1] < 0.6 * changed[-1]


def test_a_variation_depends_on_its_latent_seed_and_index_only():
    made = variations()
    latents = made.prior.sample(5, 2)
    whole = made.vary(latents, 6, 7, 0.5).reshape(5, 6, BITS)
    np.testing.assert_array_equal(made.vary(latents[3:4], 2, 7, 0.5), whole[3, :2])
    np.testing.assert_array_equal(made.vary(latents[::-1], 6, 7, 0.5).reshape(5, 6, BITS), whole[::-1])
    assert (made.vary(latents, 6, 8, 0.5) != whole.reshape(-1, BITS)).any()
    assert (whole[0, 0] != whole[0, 1]).any()


def test_two_images_of_a_component_have_different_samples_at_full_strength():
    made = variations(components=1)
    first, second = made.vary(made.prior.sample(2, 0), 1, 0, 1.0)
    assert (first != second).any()


def test_latents_belong_to_the_component_that_drew_them():
    """As often as by the Gaussian likelihood with each component's own covariance, or nearly."""
    made = variations(components=4)
    drawn = [
        Prior(sampler="gaussian", weights=np.ones(1), factors=made.prior.factors[[c]]).sample(500, c)
        for c in range(4)
    ]
    right = np.mean([(made.components(latents) == c).mean() for c, latents in enumerate(drawn)])
    exact = np.mean(
        [
            (
                np.array([component_model(made.prior, k).log_likelihood(latents) for k in range(4)]).argmax(0)
                == c
            ).mean()
            for c, latents in enumerate(drawn)
        ]
    )
    assert right > exact - 0.1
    assert right > 0.7


def test_bits_that_a_component_never_sets_stay_as_they_are_at_first_and_follow_it_at_last():
    made = variations(components=1)
    made.prior.factors[0, -1] = 0
    made.prior.factors[0, -1, 0] = -1  # the last bit is always -1
    latents = made.prior.sample(1, 0)
    latents[0, -1] = 1
    assert (made.vary(latents, 20, 0, 0.0)[:, -1] == 1).all()
    assert (made.vary(latents, 20, 0, 1.0)[:, -1] == -1).all()


@pytest.mark.parametrize(("count", "strength"), [(0, 0.5), (1, -0.1), (1, 1.1), (1, float("nan"))])
def test_a_count_or_strength_out_of_range_is_refused(count, strength):
    made = variations()
    with pytest.raises(UserError, match="allowed: count from 1, strength from 0"):
        made.vary(made.prior.sample(1, 0), count, 0, strength)


def test_a_sampler_without_thresholds_is_refused():
    made = variations(components=1)
    other = Prior(sampler="hyperplane", weights=np.ones(1), factors=made.prior.factors)
    with pytest.raises(UserError, match=r"sampler is hyperplane.*fit the bundle with --sampler gaussian"):
        Variations(other).vary(other.sample(1, 0), 1, 0, 0.5)


def test_computed_models_do_not_travel():
    made = variations()
    size = len(pickle.dumps(made))
    latents = made.prior.sample(2, 0)
    varied = made.vary(latents, 2, 0, 0.5)
    assert len(pickle.dumps(made)) == size
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(made)).vary(latents, 2, 0, 0.5), varied)
