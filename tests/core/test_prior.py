"""Samplers: definitions, moments of samples, and that latent i depends only on (prior, seed, i)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbae.core.latents.packing import pack
from lbae.core.moments.moment_accumulator import sum_packed
from lbae.core.moments.moment_sums import MomentSums
from lbae.core.prior import prior as prior_module
from lbae.core.prior.given_attributes import GivenAttributes
from lbae.core.prior.hyperplane import gram_matrix
from lbae.core.prior.prior import BLOCK, Prior, Sampler, signs
from lbae.core.prior.samplers import fit_sampler
from lbae.errors import UserError
from tests import reference

SAMPLERS: tuple[Sampler, ...] = ("hyperplane", "gaussian", "direct", "independent")


def unit_rows(seed: int, size: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    factor = np.tril(rng.normal(size=(size, size)))
    factor[0, 0] = 1.0
    return factor / np.linalg.norm(factor, axis=1, keepdims=True)


def prior_of(*factors: np.ndarray) -> Prior:
    weights = np.full(len(factors), 1 / len(factors))
    return Prior(sampler="hyperplane", weights=weights, factors=np.stack(factors).astype(np.float32))


def correlated(count: int, n: int, seed: int = 0, offset: float = 0.5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(count, 4)) @ rng.normal(size=(4, n)) + rng.normal(size=(count, n))
    return np.where(hidden >= offset * rng.normal(size=n), np.int8(1), np.int8(-1))


def sums_of(latents: np.ndarray) -> MomentSums:
    return sum_packed(pack(latents), latents.shape[1])


def test_hyperplane_moments_follow_the_arcsine_law():
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


@given(st.integers(0, 2**32 - 1), st.integers(2, 10))
@settings(deadline=None)
def test_a_normal_on_the_boundarys_positive_side_splits_as_the_hyperplane_does(seed, size):
    factor = unit_rows(seed, size)
    normals = np.random.default_rng(seed).normal(size=(5, size))
    expected = [reference.split(factor, normal) for normal in normals]
    turned = normals * np.sign(normals[:, :1])
    np.testing.assert_array_equal(signs((turned @ factor[1:].T).astype(np.float32)), expected)


@pytest.mark.parametrize("sampler", ["hyperplane", "gaussian"])
def test_samples_have_the_moments_they_were_fitted_to(sampler):
    sums = sums_of(correlated(5000, 12))
    drawn = fit_sampler(sampler, sums).sample(100_000, seed=1).astype(np.float32)
    # The tolerance allows for the repair; the standard error alone is 0.003.
    np.testing.assert_allclose(drawn.mean(axis=0), sums.mean, atol=0.02 if sampler == "hyperplane" else 0.016)
    np.testing.assert_allclose(drawn.T @ drawn / len(drawn), sums.second, atol=0.02)


def test_independent_bits_have_the_means_and_nothing_else():
    sums = sums_of(correlated(5000, 6))
    drawn = fit_sampler("independent", sums).sample(100_000, seed=1).astype(np.float32)
    np.testing.assert_allclose(drawn.mean(axis=0), sums.mean, atol=0.016)
    second = np.outer(sums.mean, sums.mean)
    np.fill_diagonal(second, 1)
    np.testing.assert_allclose(drawn.T @ drawn / len(drawn), second, atol=0.016)


def test_direct_binarisation_misses_the_correlations_that_the_others_hit():
    latents = np.ones((4000, 2), dtype=np.int8)
    latents[np.random.default_rng(0).random(4000) < 0.5] *= -1
    flipped = np.random.default_rng(1).random(4000) < 0.1
    latents[flipped, 1] *= -1
    sums = sums_of(latents)
    target = sums.second[0, 1]
    found = {}
    for sampler in SAMPLERS:
        drawn = fit_sampler(sampler, sums).sample(100_000, 2).astype(float)
        found[sampler] = (drawn[:, 0] * drawn[:, 1]).mean()
    # The sign of a Gaussian with correlation rho has 2/pi asin(rho), here 0.59 in place of 0.8.
    expected = {
        "hyperplane": target,
        "gaussian": target,
        "direct": 2 / np.pi * np.arcsin(target),
        "independent": 0,
    }
    assert found == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_bit_that_never_varies_stays_as_it_is(sampler):
    latents = correlated(300, 8)
    latents[:, 2], latents[:, 5] = 1, -1
    latents[:, 6] = latents[:, 7]
    drawn = fit_sampler(sampler, sums_of(latents)).sample(5000, 0)
    assert (drawn[:, 2] == 1).all()
    assert (drawn[:, 5] == -1).all()
    assert {-1, 1} == set(np.unique(drawn[:, 0]))


def test_fewer_than_two_rows_are_refused():
    with pytest.raises(ValueError, match="moments of 1 rows; a prior needs at least 2"):
        fit_sampler("gaussian", sums_of(np.ones((1, 4), dtype=np.int8)))


@given(st.integers(1, 2 * BLOCK + 3), st.integers(0, 2**31))
@settings(deadline=None, max_examples=20)
def test_a_latent_does_not_depend_on_how_many_are_drawn(count, seed):
    prior = prior_of(unit_rows(1, 9), unit_rows(2, 9), unit_rows(3, 9))
    np.testing.assert_array_equal(prior.sample(count, seed), prior.sample(2 * BLOCK + 3, seed)[:count])


@given(st.integers(0, 3 * BLOCK), st.integers(0, 3 * BLOCK))
@settings(deadline=None, max_examples=20)
def test_a_range_of_a_draw_can_be_drawn_alone(start, count):
    prior = prior_of(unit_rows(1, 9), unit_rows(2, 9))
    alone, tries = prior.draw(start, start + count, 5, {})
    np.testing.assert_array_equal(alone, prior.sample(6 * BLOCK, 5)[start : start + count])
    assert tries >= count


@pytest.mark.parametrize("components", [1, 3, 50])
def test_a_range_drawn_alone_has_the_same_bits(components):
    """Factors are large enough for real matrix products, and ranges exceed the blocks drawn together."""
    prior = prior_of(*(unit_rows(seed, 150) for seed in range(components)))
    whole = prior.sample(4500, 9)
    for start, stop in [(0, 1), (255, 258), (300, 4200), (4097, 4500)]:
        np.testing.assert_array_equal(prior.draw(start, stop, 9, {})[0], whole[start:stop])


def test_every_latent_is_the_sign_of_its_factor_times_normals():
    """Compares the products in blocks, tiles and strips with one product per latent."""
    prior = prior_of(*(unit_rows(seed, 40) for seed in range(5)))
    components, normals, _ = prior._blocks(3, range(17), {})
    sides = np.einsum("kij,kj->ki", prior.factors[components].astype(np.float64), normals.astype(np.float64))[
        :, 1:
    ]
    drawn = prior.sample(17 * BLOCK, 3)
    clear = np.abs(sides) > 1e-5
    assert clear.mean() > 0.999
    np.testing.assert_array_equal(drawn[clear], np.sign(sides)[clear])


def test_seeds_differ_and_repeat():
    prior = prior_of(unit_rows(1, 30))
    np.testing.assert_array_equal(prior.sample(64, 5), prior.sample(64, 5))
    assert (prior.sample(64, 5) != prior.sample(64, 6)).any()


def test_a_draw_of_zero_latents_is_empty():
    assert prior_of(unit_rows(1, 9)).sample(0, 1).shape == (0, 8)


def test_components_are_drawn_by_their_weights():
    always, never = np.eye(5), np.eye(5)
    always[1:], never[1:] = [1, 0, 0, 0, 0], [-1, 0, 0, 0, 0]
    prior = Prior(
        sampler="gaussian",
        weights=np.array([0.25, 0.75]),
        factors=np.stack([always, never]).astype(np.float32),
    )
    drawn = prior.sample(20_000, 0) > 0
    assert (drawn.all(axis=1) | ~drawn.any(axis=1)).all()
    assert abs(drawn[:, 0].mean() - 0.25) < 0.02


def with_attribute(count: int = 4000, n: int = 12):
    """Latents with two attributes, a correlated one and a rare one, known for three rows of four."""
    latents = correlated(count, n)
    noise = np.random.default_rng(1).normal(size=count)
    present = np.stack([latents[:, 0] + latents[:, 1] + noise > 1, noise > 2], axis=1)
    known = np.arange(count) % 4 > 0
    sums = sum_packed(
        pack(latents), n, ("smiling", "rare"), present & known[:, None], ~present & known[:, None]
    )
    return latents[known], present[known], sums


@pytest.mark.parametrize("sampler", ["hyperplane", "gaussian"])
@pytest.mark.parametrize("value", [True, False])
def test_draws_given_an_attribute_have_its_moments(sampler, value):
    latents, present, sums = with_attribute()
    prior = fit_sampler(sampler, sums)
    drawn, acceptance = prior.sample_given(20_000, 3, {"smiling": value})
    share = present[:, 0].mean() if value else 1 - present[:, 0].mean()
    assert acceptance == pytest.approx(share, abs=0.02)
    np.testing.assert_allclose(drawn.mean(axis=0), latents[present[:, 0] == value].mean(axis=0), atol=0.15)
    assert prior.sample(10, 0).shape == (10, 12)


def two_components(sampler: Sampler) -> Prior:
    """A prior of two components with three attributes; the last one is constant in the first component."""
    factors = np.stack([unit_rows(seed, 12) for seed in (5, 6)])
    if sampler == "gaussian":
        factors[:, :, 1:] /= np.linalg.norm(factors[:, :, 1:], axis=2, keepdims=True).clip(1e-9)
    factors[0, 3] = np.eye(12)[0]
    return Prior(
        sampler=sampler,
        weights=np.array([0.3, 0.7]),
        factors=factors.astype(np.float32),
        attributes=("a", "b", "c"),
    )


@pytest.mark.parametrize("sampler", ["hyperplane", "gaussian"])
@pytest.mark.parametrize(
    "values",
    [{"a": True}, {"b": False}, {"c": False}, {"c": True, "a": False}, {"b": True, "c": False, "a": False}],
)
def test_draws_given_attributes_are_those_draws_that_have_them(sampler, values):
    """The oracle draws attributes and bits without conditions, and keeps what has the attributes."""
    prior = two_components(sampler)
    rng = np.random.default_rng(1)
    normals = rng.standard_normal((200_000, 12))
    normals[:, 0] = np.abs(normals[:, 0]) if sampler == "hyperplane" else 1
    positive = np.empty(normals.shape, dtype=bool)
    chosen = rng.random(len(normals)) < 0.7
    for component in (0, 1):
        rows = chosen == bool(component)
        positive[rows] = normals[rows] @ prior.factors[component].T >= 0
    has = (positive[:, [1 + "abc".index(name) for name in values]] == list(values.values())).all(axis=1)
    expected = np.where(positive[has, 4:], 1.0, -1.0)
    drawn, acceptance = prior.sample_given(5_000, 3, values)
    assert acceptance == pytest.approx(has.mean(), rel=0.1)
    # Five standard errors of a mean of +-1.
    tolerance = 5 * np.sqrt(1 / len(drawn) + 1 / len(expected))
    np.testing.assert_allclose(drawn.mean(axis=0), expected.mean(axis=0), atol=tolerance)
    pairs = [latents.T @ latents / len(latents) for latents in (drawn.astype(float), expected)]
    np.testing.assert_allclose(*pairs, atol=tolerance)


def test_one_rare_attribute_takes_no_more_draws_than_a_common_one():
    factor = np.eye(4)
    factor[1] = [-4.0, 1.0, 0.0, 0.0]
    prior = Prior(
        sampler="gaussian", weights=np.ones(1), factors=factor[None].astype(np.float32), attributes=("rare",)
    )
    latents, acceptance = prior.sample_given(BLOCK, 0, {"rare": True})
    assert len(latents) == BLOCK
    assert acceptance == pytest.approx(3.167e-5, rel=1e-3)  # P(z > 4), about one in 32,000


@given(st.integers(1, BLOCK + 3), st.integers(0, 2**31))
@settings(deadline=None, max_examples=10)
def test_a_conditional_latent_does_not_depend_on_how_many_are_drawn(count, seed):
    prior = fit_sampler("gaussian", with_attribute(400)[2])
    given = {"smiling": True, "rare": False}
    whole = prior.sample_given(BLOCK + 3, seed, given)[0]
    np.testing.assert_array_equal(prior.sample_given(count, seed, given)[0], whole[:count])


def test_impossible_and_unknown_attributes_are_refused(monkeypatch):
    latents = correlated(100, 6)
    never = np.zeros((100, 1), dtype=bool)
    prior = fit_sampler("gaussian", sum_packed(pack(latents), 6, ("winged",), never, ~never))
    with pytest.raises(UserError, match="unknown attribute 'wingd'; did you mean 'winged'"):
        prior.sample_given(4, 0, {"wingd": True})
    monkeypatch.setattr(prior_module, "MAX_TRIES", 2000)
    for value, message in ((True, "have winged .*: hardly any"), (False, "have not winged .*: nearly every")):
        always = fit_sampler(
            "gaussian", sum_packed(pack(latents), 6, ("winged",), never != value, never == value)
        )
        other = fit_sampler(
            "gaussian", sum_packed(pack(latents), 6, ("winged",), never == value, never != value)
        )
        with pytest.raises(UserError, match=rf"too few draws {message} training row has it"):
            other.sample_given(4, 0, {"winged": value})
        assert always.sample_given(4, 0, {"winged": value})[1] == 1


def test_attributes_that_exclude_each_other_are_given_up_early(monkeypatch):
    """A block with all tries would take half a second of CPU, and 3 s with 40 attributes."""
    attempts, tried = [], GivenAttributes.tried
    monkeypatch.setattr(GivenAttributes, "tried", lambda *of: attempts.append(1) or tried(*of))
    factor = np.eye(5)
    factor[1], factor[2] = [-3.0, 1.0, 0.0, 0.0, 0.0], [-3.0, -1.0, 0.1, 0.0, 0.0]
    prior = Prior(
        sampler="gaussian", weights=np.ones(1), factors=factor[None].astype(np.float32), attributes=("a", "b")
    )
    with pytest.raises(UserError, match=r"too few draws have a, b .*: ask for fewer attributes at once"):
        prior.sample_given(1, 0, {"a": True, "b": True})
    assert len(attempts) == 2**13 // BLOCK


def test_the_temperature_scales_how_much_latents_differ():
    prior = fit_sampler("gaussian", sums_of(correlated(4000, 24)))
    np.testing.assert_array_equal(prior.at(1.0).sample(300, 1), prior.sample(300, 1))
    coldest = prior.at(0.0).sample(300, 1)
    np.testing.assert_array_equal(coldest, np.tile(signs(prior.factors[:, 1:, 0]), (300, 1)))
    spread = [prior.at(t).sample(4096, 1).std(axis=0).mean() for t in (0.0, 0.5, 1.0, 2.0)]
    assert 0 == spread[0] < spread[1] < spread[2] < spread[3]


def test_attributes_are_as_frequent_at_any_temperature():
    rng = np.random.default_rng(0)
    latents = correlated(4000, 16)
    rare = rng.random(4000) < 0.1
    prior = fit_sampler("gaussian", sum_packed(pack(latents), 16, ("rare",), rare[:, None], ~rare[:, None]))
    shares = [prior.at(t).sample_given(2048, 3, {"rare": True})[1] for t in (0.2, 1.0, 2.0)]
    assert shares[0] == shares[1] == shares[2]


def test_at_a_temperature_latent_i_still_depends_only_on_seed_and_i():
    prior = prior_of(unit_rows(0, 21), unit_rows(1, 21)).at(0.6)
    whole = prior.sample(700, 5)
    np.testing.assert_array_equal(prior.draw(300, 420, 5, {})[0], whole[300:420])


@pytest.mark.parametrize("temperature", [-0.1, 2.1, float("nan")])
def test_a_temperature_out_of_range_is_refused(temperature):
    with pytest.raises(UserError, match=r"temperature is .*; allowed: 0 \(least variety\) to 2"):
        prior_of(unit_rows(0, 9)).at(temperature)
