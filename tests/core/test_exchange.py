import pickle
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbae.core.latents.exchange import confidence, exchange, exchanged_sides
from lbae.core.latents.other_attributes import without_other_attributes
from lbae.core.latents.packing import pack
from lbae.core.latents.value_fit import fit_temperature, fit_values
from lbae.core.latents.value_models import ValueModels
from lbae.core.moments.moment_accumulator import sum_packed
from lbae.core.prior.dichotomised_gaussian import DichotomisedGaussian
from lbae.core.prior.gaussian import bit_means
from lbae.errors import UserError

BITS = 24


def value_models(
    latents: np.ndarray, columns: Sequence[np.ndarray], own: bool = True, first: int = 0
) -> ValueModels:
    """Models of yes/no columns (K, 1) and of class columns (K, C); attributes are numbered from ``first``."""
    names, fitted, shared, groups = [], [], [], 0
    for column, masks in enumerate(columns):
        sides = [(first + j, 1, mask) for j, mask in enumerate(masks.T)]
        if len(sides) == 1:
            sides.append((first, -1, ~masks[:, 0]))
        first += masks.shape[1]
        names += [(attribute, sign, column, mask.sum()) for attribute, sign, mask in sides]
        packed = [sum_packed(pack(latents[mask]), latents.shape[1]) for *_, mask in sides]
        fitted.append(fit_values(packed, own))
        shared += [groups + min(i, len(fitted[-1][1]) - 1) for i in range(len(sides))]
        groups += len(fitted[-1][1])
    attributes, signs, of, rows = np.array(names).T
    shifts = np.concatenate([shifts for shifts, _ in fitted])
    return ValueModels(
        attributes=attributes,
        signs=signs.astype(np.int8),
        columns=of,
        rows=rows,
        shifts=shifts,
        shared=np.array(shared),
        judged=np.array(shared),
        correlations=np.concatenate([correlations for _, correlations in fitted]),
        temperatures=np.ones(len(names), dtype=np.float32),
        adjusted=bit_means(shifts).astype(np.float32),
    )


def random_model(rng: np.random.Generator, bits: int = BITS) -> DichotomisedGaussian:
    loadings = rng.normal(size=(bits, 4))
    covariance = loadings @ loadings.T + 3 * np.eye(bits)
    scale = 1 / np.sqrt(np.diag(covariance))
    return DichotomisedGaussian(
        shifts=0.7 * rng.normal(size=bits), correlation=covariance * np.outer(scale, scale)
    )


def draw(model: DichotomisedGaussian, count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.multivariate_normal(model.shifts, model.correlation, size=count)


def signs(sides: np.ndarray) -> np.ndarray:
    return np.where(sides >= 0, np.int8(1), np.int8(-1))


def correlation(latents: np.ndarray) -> np.ndarray:
    return np.cov(latents.T.astype(float))


def test_moments_of_the_bits_are_those_of_draws():
    rng = np.random.default_rng(0)
    model = random_model(rng)
    latents = signs(draw(model, 200_000, rng))
    np.testing.assert_allclose(model.mean, latents.mean(axis=0), atol=0.012)
    np.testing.assert_allclose(model.covariance, correlation(latents), atol=0.015)


def test_sides_are_nearly_their_means_given_the_bits():
    """With four bits, every latent occurs often enough to average its sides."""
    rng = np.random.default_rng(1)
    model = random_model(rng, 4)
    sides = draw(model, 400_000, rng)
    latents = signs(sides)
    found = model.sides(latents)
    np.testing.assert_array_equal(signs(found), latents)
    codes = (latents > 0) @ (1 << np.arange(4))
    means = np.stack([sides[codes == code].mean(axis=0) for code in range(16)])
    np.testing.assert_allclose(found, means[codes], atol=0.1)
    assert np.square(found - sides).mean() < 1.01 * np.square(means[codes] - sides).mean()


@pytest.mark.parametrize("shift", [0.0, 8.0, -40.0])
def test_sides_of_constant_bits_are_finite(shift):
    rng = np.random.default_rng(2)
    model = replace(random_model(rng), shifts=np.full(BITS, shift))
    for latents in (np.ones((3, BITS), np.int8), -np.ones((3, BITS), np.int8)):
        found = model.sides(latents)
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(signs(found), latents)


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=10)
def test_exchanged_draws_have_the_moments_of_the_target(seed):
    rng = np.random.default_rng(seed)
    source, target = random_model(rng), random_model(rng)
    edited = signs(exchanged_sides(source, target, draw(source, 40_000, rng)))
    np.testing.assert_allclose(edited.mean(axis=0), target.mean, atol=0.03)
    np.testing.assert_allclose(correlation(edited), target.covariance, atol=0.035)


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=10)
def test_exchange_for_an_equal_model_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    model = random_model(rng)
    latents = rng.choice(np.array([-1, 1], np.int8), (200, BITS))
    same = exchanged_sides(model, model, model.sides(latents))
    np.testing.assert_array_equal(signs(same), latents)


def two_kinds(seed: int = 0, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """3,000 latents from each of ``classes`` random models, and their classes (K, classes), one-hot."""
    rng = np.random.default_rng(seed)
    latents = np.concatenate([signs(draw(random_model(rng), 3000, rng)) for _ in range(classes)])
    return latents, np.repeat(np.eye(classes, dtype=bool), 3000, axis=0)


def test_edited_latents_are_as_likely_as_those_with_the_attribute():
    latents, kinds = two_kinds()
    models = value_models(latents, [kinds[:, :1]])
    members, without = latents[kinds[:, 0]], latents[~kinds[:, 0]]
    edited = exchange(models, ("a",), without, {0: 1}, 1.0)
    assert (edited != without).any(axis=1).mean() > 0.95
    of_members, before, after = (models.log_likelihoods([0], some)[0] for some in (members, without, edited))
    assert np.median(before) < np.quantile(of_members, 0.01) < np.quantile(after, 0.05)
    assert np.median(after) > np.median(of_members), "nearer to the middle than members are"
    back = exchange(models, ("a",), edited, {0: -1}, 1.0)
    assert (back == without)[edited != without].mean() > 0.6


def test_latents_edited_to_a_value_of_few_rows_are_nearer_to_its_middle():
    latents, kinds = two_kinds()
    models = value_models(latents, [kinds[:, :1]])
    few = replace(models, rows=np.array([20, 3000]))
    without = latents[~kinds[:, 0]]
    edited = [exchange(some, ("a",), without, {0: 1}, 1.0) for some in (few, models)]
    nearer, further = (np.median(models.log_likelihoods([0], some)) for some in edited)
    assert nearer > further


def test_latents_with_the_attribute_stay():
    latents, kinds = two_kinds()
    models = value_models(latents, [kinds[:, :1]])
    with_it = latents[kinds[:, 0]]
    assert (exchange(models, ("a",), with_it, {0: 1}, 1.0) == with_it).all(axis=1).mean() > 0.95


@pytest.mark.parametrize("own", [True, False])
def test_latents_move_to_the_class_that_is_set_and_away_from_the_class_that_is_unset(own):
    latents, kinds = two_kinds(3, classes=3)
    models, names = value_models(latents, [kinds], own), ("c=0", "c=1", "c=2")

    def likeliest(some: np.ndarray) -> np.ndarray:
        return models.log_likelihoods([0, 1, 2], some).argmax(axis=0)

    assert (likeliest(latents) == kinds.argmax(axis=1)).mean() > 0.95
    to_two = exchange(models, names, latents, {2: 1}, 1.0)
    assert (likeliest(to_two) == 2).mean() > 0.95
    away = exchange(models, names, latents, {2: -1}, 1.0)
    assert (likeliest(away) != 2).mean() > 0.95
    sure = confidence(models, names, latents, {2: -1}) >= 0.75
    assert (likeliest(latents[sure]) != 2).all()
    np.testing.assert_array_equal(away[sure], latents[sure])
    zeros = latents[likeliest(latents) == 0]
    np.testing.assert_array_equal(
        exchange(models, names, zeros, {2: 1, 0: -1}, 1.0), exchange(models, names, zeros, {2: 1}, 1.0)
    )
    ones = latents[confidence(models, names, latents, {0: 1}) < 0.2]
    np.testing.assert_array_equal(
        exchange(models, names, ones, {2: 1, 0: -1}, 1.0), exchange(models, names, ones, {2: 1}, 1.0)
    )
    with pytest.raises(UserError, match="attributes 'c=0' and 'c=2' are classes of one column"):
        exchange(models, names, latents, {0: 1, 2: 1}, 1.0)


def test_the_order_of_attributes_does_not_matter():
    latents, kinds = two_kinds(5, classes=4)
    models = value_models(latents, [kinds[:, :1] | kinds[:, 1:2], kinds[:, 1:2] | kinds[:, 2:3]])
    one, other = {0: 1, 1: -1}, {1: -1, 0: 1}
    np.testing.assert_array_equal(
        exchange(models, ("a", "b"), latents, one, 0.8), exchange(models, ("a", "b"), latents, other, 0.8)
    )


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=10)
def test_a_change_loses_the_steps_of_other_columns_and_keeps_its_own(seed):
    latents, kinds = two_kinds(seed, classes=5)
    a, b = kinds[:, :1] | kinds[:, 1:2], kinds[:, 1:2] | kinds[:, 2:3]
    models = value_models(latents, [a, b, kinds[:, 2:]])
    model, (own, others) = models.model(0), models.steps(0, 1)
    change = np.random.default_rng(seed).normal(size=(6, BITS))
    metric = np.linalg.inv(model.correlation + np.eye(BITS))
    beyond_own = others - (others @ metric @ own.T) / (own @ metric @ own.T) * own
    assert len(others) == 3, "one of the other yes/no column, two of the three classes"
    left = without_other_attributes(models, 0, 1, change)
    np.testing.assert_allclose(left @ metric @ beyond_own.T, 0, atol=1e-6)
    np.testing.assert_allclose(left @ metric @ own.T, change @ metric @ own.T, atol=1e-6)
    assert np.linalg.matrix_rank(change - left, tol=1e-6) == 3


def test_steps_are_how_sides_move_with_the_means_of_bits():
    latents, kinds = two_kinds(4, classes=4)
    models = value_models(latents, [kinds[:, :1], kinds[:, 1:2] | kinds[:, 2:3]])
    for step, (start, end) in zip(np.concatenate(models.steps(0, 1)), [(0, 1), (2, 3)], strict=True):
        moved = bit_means(models.shifts[0] + 1e-4 * step) - bit_means(models.shifts[0].astype(float))
        np.testing.assert_allclose(moved, 1e-4 * (models.adjusted[end] - models.adjusted[start]), atol=1e-6)


@pytest.mark.parametrize("columns", [[0], [0, 0], [0, 1, 0]])
def test_columns_that_say_the_same_change_together(columns):
    latents, kinds = two_kinds()
    models = value_models(latents, [kinds[:, column : column + 1] for column in columns])
    change = np.random.default_rng(0).normal(size=(6, BITS))
    np.testing.assert_allclose(without_other_attributes(models, 1, 0, change), change, atol=1e-5)


def test_a_value_with_few_rows_has_bounded_shifts_and_nearly_the_mean_correlation():
    latents, kinds = two_kinds()
    few = kinds[:, 0].copy()
    few[2:3000] = False
    models = value_models(latents, [few[:, None] & np.ones((1, 1), bool)])
    assert np.abs(models.shifts[0]).max() < 0.68  # for two rows at most Phi^-1(1 - 0.5 / 2) = 0.674
    near = np.abs(models.correlations[0] - models.correlations[1]).mean()
    assert near < 0.05


@given(st.integers(0, 2**32 - 1), st.floats(0.5, 8))
@settings(deadline=None, max_examples=20)
def test_the_temperature_undoes_a_scale_of_the_likelihoods(seed, scale):
    rng = np.random.default_rng(seed)
    likely = rng.normal(size=(3, 20_000))
    drawn = likely + rng.gumbel(size=likely.shape)  # so a value has the probability softmax(likely)
    assert fit_temperature(scale * likely, drawn.argmax(axis=0))[0] == pytest.approx(scale, rel=0.1)


def test_confidence_is_how_often_latents_have_what_is_asked():
    latents, kinds = two_kinds(7, classes=3)
    models = value_models(latents, [kinds])
    temperature, _ = fit_temperature(models.log_likelihoods([0, 1, 2], latents), kinds.argmax(axis=1))
    models = replace(models, temperatures=np.full(3, temperature, dtype=np.float32))
    names = ("c=0", "c=1", "c=2")
    found = np.array([confidence(models, names, latents, {value: 1}) for value in range(3)])
    np.testing.assert_allclose(found.sum(axis=0), 1)
    np.testing.assert_allclose(confidence(models, names, latents, {1: -1}), 1 - found[1])
    for least, most in ((0.05, 0.5), (0.5, 0.95)):
        between = (found > least) & (found < most)
        assert kinds.T[between].mean() == pytest.approx(found[between].mean(), abs=0.07)


def test_confidence_in_several_attributes_is_that_of_the_least_sure():
    latents, kinds = two_kinds(5, classes=4)
    models = value_models(latents, [kinds[:, :1] | kinds[:, 1:2], kinds[:, 1:2] | kinds[:, 2:3]])
    alone = [confidence(models, ("a", "b"), latents, {attribute: 1}) for attribute in (0, 1)]
    both = confidence(models, ("a", "b"), latents, {0: 1, 1: 1})
    np.testing.assert_array_equal(both, np.minimum(*alone))


@pytest.mark.parametrize(("members", "trusted"), [(2 * BITS, True), (2 * BITS - 1, False)])
def test_an_attribute_is_trusted_from_two_rows_per_bit_on(members, trusted):
    latents = np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.int8), (400, BITS))
    column = (np.arange(400) < members)[:, None]
    models = value_models(latents, [column])
    assert models.trusted(0) is trusted
    assert not models.trusted(1)


def test_models_are_pickled_without_their_caches():
    latents, kinds = two_kinds()
    models = value_models(latents, [kinds[:, :1]])
    models.model(0).sides(latents[:2])
    again = pickle.loads(pickle.dumps(models))
    np.testing.assert_array_equal(
        exchange(again, ("a",), latents, {0: 1}, 1.0), exchange(models, ("a",), latents, {0: 1}, 1.0)
    )
