import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbae.core.latents.editing import confidence, edit, edit_bits, move_to_given
from lbae.core.latents.packing import pack
from lbae.core.moments.attribute_statistics import attribute_statistics
from lbae.core.moments.moment_accumulator import sum_packed
from lbae.errors import UnusableAttribute, UserError
from tests import reference
from tests.core.test_attributes import BITS, LATENTS, PRESENT, STATISTICS, statistics_of
from tests.core.test_exchange import two_kinds, value_models
from tests.core.test_normals import correlated

MODELS = value_models(LATENTS, [PRESENT[:, :1], PRESENT[:, 1:]])


def by_exchange(latents, *request):
    return edit(STATISTICS, MODELS, latents, *request)


def by_bits(latents, *request):
    return edit_bits(STATISTICS, latents, *request)


EDITS = [by_bits, by_exchange]


@given(st.integers(0, 2999), st.floats(0, 1), st.booleans(), st.booleans())
@settings(deadline=None)
def test_edit_agrees_with_flipping_one_bit_at_a_time(row, strength, both, remove):
    latent = LATENTS[row]
    names = ["a", "b"] if both else ["a"]
    sign, means = (-1, STATISTICS.mean_if_unset) if remove else (1, STATISTICS.mean_if_set)
    lift = np.where(STATISTICS.significant, STATISTICS.lift, 0)
    direction = sign * sum(lift[STATISTICS.index(n)] for n in names)
    expected = sign * sum(lift[STATISTICS.index(n)] @ means[STATISTICS.index(n)] for n in names)
    target = (1 - strength) * (latent @ direction) + strength * expected
    edited = edit_bits(STATISTICS, latent[None], () if remove else names, names if remove else (), strength)[
        0
    ]
    np.testing.assert_array_equal(edited, reference.edit_bits(latent, direction, target))


def test_setting_adds_and_unsetting_removes():
    score = np.where(STATISTICS.significant[0], STATISTICS.lift[0], 0)
    without = LATENTS[~PRESENT[:, 0]]
    added = edit_bits(STATISTICS, without, ["a"])
    removed = edit_bits(STATISTICS, added, (), ["a"])
    goal, back = score @ STATISTICS.mean_if_set[0], score @ STATISTICS.mean_if_unset[0]
    assert (added @ score >= goal - 1e-9).all()
    assert (removed @ score <= back + 1e-9).all()
    assert (added != without).sum(axis=1).mean() < BITS / 2


def test_bits_without_a_significant_lift_stay():
    edited = edit_bits(STATISTICS, LATENTS, ["a"], ["b"])
    assert not (edited != LATENTS)[:, ~STATISTICS.significant.any(axis=0)].any()


@pytest.mark.parametrize("method", EDITS)
def test_strength_zero_changes_nothing(method):
    np.testing.assert_array_equal(method(LATENTS[:200], ["a"], ["b"], 0.0), LATENTS[:200])


@pytest.mark.parametrize("method", EDITS)
def test_an_edit_of_one_image_does_not_depend_on_its_neighbours(method):
    together = method(LATENTS[:20], ["a"], (), 0.7)
    alone = np.concatenate([method(LATENTS[i : i + 1], ["a"], (), 0.7) for i in range(20)])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("method", ["bits", "exchange"])
def test_distinct_inputs_stay_distinct(method):
    latents, present = correlated(60, 3000)
    sums = sum_packed(pack(latents), 60, ("a", "b"), present, ~present)
    others = np.unique(latents[~present[:, 0]], axis=0)[:300]
    models = value_models(latents, [present[:, :1], present[:, 1:]])
    edited = edit(attribute_statistics(sums), models, others, ["a"], method=method)
    assert len(np.unique(edited, axis=0)) == len(others)


@pytest.mark.parametrize("method", EDITS)
def test_more_strength_changes_more_bits(method):
    changed = [
        (method(LATENTS[:100], ["a"], ["b"], strength) != LATENTS[:100]).sum()
        for strength in (0.0, 0.5, 0.75, 1.0)
    ]
    assert changed == sorted(set(changed))


def test_errors_name_the_mistake():
    with pytest.raises(UserError, match=r"strength is 1\.5; allowed: 0"):
        edit_bits(STATISTICS, LATENTS, ["a"], (), 1.5)
    with pytest.raises(UserError, match=r"unknown attribute 'aa'; did you mean 'a'\? \(known: a, b\)"):
        edit_bits(STATISTICS, LATENTS, ["aa"])
    with pytest.raises(UserError, match="'a' is both set and unset"):
        edit_bits(STATISTICS, LATENTS, ["a"], ["a"])
    with pytest.raises(UserError, match="no attribute to set or unset"):
        edit_bits(STATISTICS, LATENTS)
    chance = statistics_of(LATENTS, np.random.default_rng(3).random((len(LATENTS), 1)) < 0.5)
    with pytest.raises(UserError, match="'a' has no significant lift on any bit"):
        edit_bits(chance, LATENTS, ["a"])
    with pytest.raises(UserError, match=r"strength is 2\.1; allowed: 0 .* to 2 with the method exchange"):
        by_exchange(LATENTS[:3], ["a"], (), 2.1)
    with pytest.raises(UserError, match="this bundle has no models of attribute values"):
        edit(STATISTICS, None, LATENTS[:3], ["a"])
    with pytest.raises(UserError, match="method 'hyperplane' was removed; use exchange"):
        edit(STATISTICS, MODELS, LATENTS[:3], ["a"], method="hyperplane")
    rare = value_models(LATENTS, [PRESENT[:, 1:]], first=1)
    with pytest.raises(UnusableAttribute, match="attribute 'a' is too rare"):
        edit(STATISTICS, rare, LATENTS[:3], ["a"])


def test_draws_with_attributes_are_moved_until_their_bits_show_them():
    given = {"a": True, "b": False}
    moved = move_to_given(STATISTICS, MODELS, LATENTS[:500], given)
    np.testing.assert_array_equal(moved, by_exchange(LATENTS[:500], ["a"], ["b"]))
    before, after = (confidence(STATISTICS, MODELS, some, ["a"], ["b"]) for some in (LATENTS[:500], moved))
    assert np.median(before) < 0.5 < np.median(after)
    for same in (
        move_to_given(STATISTICS, MODELS, LATENTS[:5], {}),
        move_to_given(STATISTICS, None, LATENTS[:5], given),
    ):
        np.testing.assert_array_equal(same, LATENTS[:5])


def test_a_draw_stays_in_attributes_without_models_and_moves_in_the_others():
    models = value_models(LATENTS, [PRESENT[:, 1:]], first=1)
    moved = move_to_given(STATISTICS, models, LATENTS[:500], {"a": True, "b": False})
    np.testing.assert_array_equal(moved, edit(STATISTICS, models, LATENTS[:500], (), ["b"]))
    np.testing.assert_array_equal(move_to_given(STATISTICS, models, LATENTS[:5], {"a": True}), LATENTS[:5])


def test_a_class_given_says_all_about_its_column():
    latents, kinds = two_kinds(9, classes=3)
    models, names = value_models(latents, [kinds]), ("a", "b", "c")
    statistics = attribute_statistics(sum_packed(pack(latents), BITS, names, kinds, ~kinds))
    np.testing.assert_array_equal(
        move_to_given(statistics, models, latents, {"a": True, "b": False}),
        move_to_given(statistics, models, latents, {"a": True}),
    )
    with pytest.raises(UserError, match="attributes 'a', 'b', 'c' are all classes of one column"):
        edit(statistics, models, latents, (), names)
    with pytest.raises(UserError, match="attributes 'a' and 'c' are classes of one column"):
        edit(statistics, models, latents, ("a", "c"), method="bits")
