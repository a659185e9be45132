import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbae.core.attributes import AttributeStatistics, attribute_statistics, edit_bits
from lbae.core.kernel import moment_sums
from lbae.core.packing import pack
from lbae.errors import UserError
from tests import reference

BITS = 24


def labelled(seed: int, count: int = 3000):
    """Latents whose first bits follow attribute ``a`` and next ones attribute ``b``; a and b go together."""
    rng = np.random.default_rng(seed)
    a = rng.random(count) < 0.4
    b = np.where(rng.random(count) < 0.7, a, ~a)
    chance = np.full((count, BITS), 0.5)
    chance[:, :6] += np.where(a, 0.4, -0.2)[:, None]
    chance[:, 6:10] += np.where(b, 0.3, -0.3)[:, None]
    latents = np.where(rng.random((count, BITS)) < chance, np.int8(1), np.int8(-1))
    return latents, np.stack([a, b], axis=1)


def statistics_of(latents: np.ndarray, present: np.ndarray, absent: np.ndarray | None = None) -> AttributeStatistics:
    names = tuple("abcdef"[: present.shape[1]])
    return attribute_statistics(moment_sums(pack(latents), BITS, names, present, ~present if absent is None else absent))


LATENTS, PRESENT = labelled(0)
STATISTICS = statistics_of(LATENTS, PRESENT)


def test_lifts_are_the_joint_least_squares_fit():
    design = np.concatenate([np.where(PRESENT, 1.0, -1.0), np.ones((len(PRESENT), 1))], axis=1)
    slope, *_ = np.linalg.lstsq(design, LATENTS.astype(float), rcond=None)
    np.testing.assert_allclose(STATISTICS.lift, 2 * slope[:2], atol=1e-10)
    residual = LATENTS - design @ slope
    inverse = np.linalg.inv(design.T @ design)
    errors = 2 * np.sqrt(np.outer(np.diag(inverse)[:2], (residual**2).mean(axis=0)))
    np.testing.assert_allclose(STATISTICS.lift_error, errors, rtol=1e-6)


def test_a_correlated_attribute_does_not_take_credit():
    assert np.abs(STATISTICS.lift[0, 6:10]).max() < 0.1 < np.abs(STATISTICS.lift[0, :6]).min()


def test_one_attribute_gives_the_difference_of_conditional_means():
    alone = statistics_of(LATENTS, PRESENT[:, :1])
    difference = LATENTS[PRESENT[:, 0]].mean(axis=0) - LATENTS[~PRESENT[:, 0]].mean(axis=0)
    np.testing.assert_allclose(alone.lift[0], difference, atol=1e-12)
    np.testing.assert_allclose(alone.mean_if_set[0], LATENTS[PRESENT[:, 0]].mean(axis=0))


def test_unknown_values_are_left_out():
    known = np.random.default_rng(1).random(len(LATENTS)) < 0.5
    partial = statistics_of(LATENTS, PRESENT[:, :1] & known[:, None], ~PRESENT[:, :1] & known[:, None])
    whole = statistics_of(LATENTS[known], PRESENT[known, :1])
    assert (partial.set_count + partial.unset_count).tolist() == [known.sum()]
    np.testing.assert_allclose(partial.lift, whole.lift, atol=1e-12)


def test_classes_of_one_column_do_not_break_the_fit():
    label = np.random.default_rng(2).integers(0, 4, len(LATENTS))
    present = label[:, None] == np.arange(4)
    latents = LATENTS.copy()
    latents[label == 2, 0] = 1
    lift = statistics_of(latents, present).lift
    assert np.isfinite(lift).all()
    assert lift[:, 0].argmax() == 2


def test_no_attributes_are_no_trouble():
    assert attribute_statistics(moment_sums(pack(LATENTS), BITS)).lift.shape == (0, BITS)


@given(st.integers(0, 2999), st.floats(0, 1), st.booleans(), st.booleans())
@settings(deadline=None)
def test_edit_agrees_with_flipping_one_bit_at_a_time(row, strength, both, remove):
    latent = LATENTS[row]
    names = ["a", "b"] if both else ["a"]
    sign, means = (-1, STATISTICS.mean_if_unset) if remove else (1, STATISTICS.mean_if_set)
    direction = sign * sum(STATISTICS.lift[STATISTICS.index(n)] for n in names)
    expected = sign * sum(STATISTICS.lift[STATISTICS.index(n)] @ means[STATISTICS.index(n)] for n in names)
    target = (1 - strength) * (latent @ direction) + strength * expected
    edited = edit_bits(STATISTICS, latent[None], () if remove else names, names if remove else (), strength)[0]
    np.testing.assert_array_equal(edited, reference.edit_bits(latent, direction, target))


def test_setting_adds_and_unsetting_removes():
    score = STATISTICS.lift[0]
    without = LATENTS[~PRESENT[:, 0]]
    added = edit_bits(STATISTICS, without, ["a"])
    removed = edit_bits(STATISTICS, added, (), ["a"])
    goal, back = score @ STATISTICS.mean_if_set[0], score @ STATISTICS.mean_if_unset[0]
    assert (added @ score >= goal - 1e-9).all()
    assert (removed @ score <= back + 1e-9).all()
    assert (added != without).sum(axis=1).mean() < BITS / 2


def test_strength_zero_changes_nothing():
    np.testing.assert_array_equal(edit_bits(STATISTICS, LATENTS, ["a"], ["b"], 0.0), LATENTS)


def test_an_edit_of_one_image_does_not_depend_on_its_neighbours():
    together = edit_bits(STATISTICS, LATENTS[:50], ["a"], (), 0.7)
    alone = np.concatenate([edit_bits(STATISTICS, LATENTS[i : i + 1], ["a"], (), 0.7) for i in range(50)])
    np.testing.assert_array_equal(together, alone)


def test_mistakes_are_named():
    with pytest.raises(UserError, match=r"strength is 1\.5; allowed: 0"):
        edit_bits(STATISTICS, LATENTS, ["a"], (), 1.5)
    with pytest.raises(UserError, match=r"unknown attribute 'aa'; did you mean 'a'\? \(known: a, b\)"):
        edit_bits(STATISTICS, LATENTS, ["aa"])
    with pytest.raises(UserError, match="'a' is both set and unset"):
        edit_bits(STATISTICS, LATENTS, ["a"], ["a"])
    with pytest.raises(UserError, match="no attribute to set or unset"):
        edit_bits(STATISTICS, LATENTS)
    constant = statistics_of(LATENTS, np.ones((len(LATENTS), 1), dtype=bool))
    with pytest.raises(UserError, match="'a' has one value only"):
        edit_bits(constant, LATENTS, ["a"])
