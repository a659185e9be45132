import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbae.core.latents.editing import edit_bits, edit_hyperplane, move_across
from lbae.core.latents.normals import Normals, pooled_factor
from lbae.core.latents.packing import pack
from lbae.core.moments.attribute_statistics import attribute_statistics
from lbae.core.moments.moment_accumulator import sum_packed
from lbae.errors import UserError
from tests import reference
from tests.core.test_attributes import BITS, LATENTS, PRESENT, STATISTICS, statistics_of
from tests.core.test_normals import correlated

NORMALS = Normals(
    factor=pooled_factor(sum_packed(pack(LATENTS), BITS, ("a", "b"), PRESENT, ~PRESENT)),
    latent_dim=BITS,
)


def by_hyperplane(latents, *request):
    return edit_hyperplane(STATISTICS, NORMALS, latents, *request)


def by_bits(latents, *request):
    return edit_bits(STATISTICS, latents, *request)


EDITS = [by_bits, by_hyperplane]


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


def test_bits_of_chance_stay():
    edited = edit_bits(STATISTICS, LATENTS, ["a"], ["b"])
    assert not (edited != LATENTS)[:, ~STATISTICS.significant.any(axis=0)].any()


@pytest.mark.parametrize("edit", EDITS)
def test_strength_zero_changes_nothing(edit):
    np.testing.assert_array_equal(edit(LATENTS[:200], ["a"], ["b"], 0.0), LATENTS[:200])


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_of_one_image_does_not_depend_on_its_neighbours(edit):
    together = edit(LATENTS[:20], ["a"], (), 0.7)
    alone = np.concatenate([edit(LATENTS[i : i + 1], ["a"], (), 0.7) for i in range(20)])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("method", ["bits", "hyperplane"])
def test_distinct_inputs_stay_distinct(method):
    latents, present = correlated(60, 3000)
    sums = sum_packed(pack(latents), 60, ("a", "b"), present, ~present)
    others = np.unique(latents[~present[:, 0]], axis=0)[:300]
    if method == "bits":
        edited = edit_bits(attribute_statistics(sums), others, ["a"])
    else:
        normals = Normals(factor=pooled_factor(sums), latent_dim=60)
        edited = edit_hyperplane(attribute_statistics(sums), normals, others, ["a"])
    assert len(np.unique(edited, axis=0)) == len(others)


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.integers(1, 3))
def test_a_normal_moves_to_the_mirrored_side_and_keeps_the_boundary(seed, strength, count):
    rng = np.random.default_rng(seed)
    normal, vectors = rng.normal(size=20), rng.normal(size=(count, 20))
    moved = move_across(vectors, normal, strength)
    assert moved[0] == normal[0]
    np.testing.assert_allclose(vectors @ moved, (1 - 2 * strength) * (vectors @ normal), atol=1e-9)


def test_the_hyperplane_edit_moves_the_score_to_the_side_asked_for():
    score = LATENTS @ STATISTICS.lift[0]
    middle = (score[PRESENT[:, 0]].mean() + score[~PRESENT[:, 0]].mean()) / 2
    without = LATENTS[~PRESENT[:, 0]][:100]
    added = by_hyperplane(without, ["a"])
    removed = by_hyperplane(added, (), ["a"])
    assert (without @ STATISTICS.lift[0]).mean() < middle < (added @ STATISTICS.lift[0]).mean()
    assert (removed @ STATISTICS.lift[0]).mean() < middle
    already = LATENTS[PRESENT[:, 0]][:100]
    assert (by_hyperplane(already, ["a"]) != already).sum() < (added != without).sum() / 2


@pytest.mark.parametrize("edit", EDITS)
def test_more_strength_changes_more_bits(edit):
    changed = [
        (edit(LATENTS[:100], ["a"], ["b"], strength) != LATENTS[:100]).sum()
        for strength in (0.0, 0.3, 0.6, 1.0)
    ]
    assert changed == sorted(set(changed))


def test_mistakes_are_named():
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
    without = Normals(factor=NORMALS.factor[: BITS + 1, : BITS + 1], latent_dim=BITS)
    with pytest.raises(UserError, match="fitted without unit vectors for its attributes"):
        edit_hyperplane(STATISTICS, without, LATENTS[:3], ["a"])
