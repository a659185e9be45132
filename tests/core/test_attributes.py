import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lbae.core.latents.packing import pack
from lbae.core.moments.attribute_statistics import (
    FALSE_DISCOVERY_RATE,
    AttributeStatistics,
    _discoveries,
    attribute_statistics,
    joint_moments,
    leading_bits,
)
from lbae.core.moments.moment_accumulator import sum_packed
from lbae.errors import UserError

BITS = 24


def labelled(seed: int, count: int = 3000):
    """Latents whose bits 0 to 5 depend on attribute a and bits 6 to 9 on attribute b; a and b correlate."""
    rng = np.random.default_rng(seed)
    a = rng.random(count) < 0.4
    b = np.where(rng.random(count) < 0.7, a, ~a)
    chance = np.full((count, BITS), 0.5)
    chance[:, :6] += np.where(a, 0.4, -0.2)[:, None]
    chance[:, 6:10] += np.where(b, 0.3, -0.3)[:, None]
    latents = np.where(rng.random((count, BITS)) < chance, np.int8(1), np.int8(-1))
    return latents, np.stack([a, b], axis=1)


def statistics_of(
    latents: np.ndarray, present: np.ndarray, absent: np.ndarray | None = None
) -> AttributeStatistics:
    names = tuple("abcdef"[: present.shape[1]])
    return attribute_statistics(
        sum_packed(pack(latents), BITS, names, present, ~present if absent is None else absent)
    )


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


def test_a_correlated_attribute_does_not_lift_the_bits_of_the_other():
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


@pytest.mark.parametrize("nulls", [1, 30, 1500])
def test_classes_with_unlabelled_rows_do_not_break_the_fit_of_another_column(nulls):
    """The sum of the classes has no variance, but some covariance with a column known on other rows."""
    rng = np.random.default_rng(4)
    label, other = rng.integers(0, 4, len(LATENTS)), rng.random(len(LATENTS)) < 0.5
    latents = LATENTS.copy()
    latents[label == 2, 20], latents[:, 21] = 1, np.where(other, 1, -1)
    present = np.column_stack([label[:, None] == np.arange(4), other])
    absent, whole = ~present, statistics_of(latents, present)
    unknown = rng.choice(len(latents), nulls, replace=False)
    present[unknown, :4] = absent[unknown, :4] = False
    found = statistics_of(latents, present, absent)
    np.testing.assert_allclose(found.lift[4, 21], 2, atol=0.05)
    np.testing.assert_allclose(found.lift[:4, 20], whole.lift[:4, 20], atol=0.15)
    assert np.abs(found.lift[:4, 21]).max() < 0.15


@pytest.mark.parametrize("share", [1.0, 0.5, 0.2])
def test_lift_errors_hold_for_attributes_known_on_different_rows(share):
    """All bits depend on a alone; b correlates with a, so its lifts are chance, as large as their errors."""
    z = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        a = rng.random(20_000) < 0.4
        b = np.where(rng.random(len(a)) < 0.8, a, rng.random(len(a)) < 0.4)
        latents = np.where(
            rng.random((len(a), BITS)) < np.where(a, 0.7, 0.4)[:, None], np.int8(1), np.int8(-1)
        )
        present, known = np.column_stack([a, b]), rng.random((len(a), 2)) < share
        found = statistics_of(latents, present & known, ~present & known)
        of_errors = found.lift[1] / found.lift_error[1]
        z.append(of_errors - of_errors.mean())  # all bits share the mean, a matter of chance in a and b
    assert np.std(z) == pytest.approx(1, abs=0.2)


def test_which_rows_are_labelled_does_not_count_as_an_effect():
    """Bit 0 tells only whether a row is labelled, and bit 1 depends on the attribute."""
    rng = np.random.default_rng(5)
    known, a = rng.random(20_000) < 0.5, rng.random(20_000) < 0.3
    latents = np.where(rng.random((len(a), BITS)) < 0.5, np.int8(1), np.int8(-1))
    latents[:, 0] = np.where(known, 1, -1)
    latents[:, 1] = np.where(rng.random(len(a)) < np.where(a, 0.8, 0.2), 1, -1)
    sums = sum_packed(pack(latents), BITS, ("a",), (a & known)[:, None], (~a & known)[:, None])
    mean, second = joint_moments(sums)
    covariance = second[0, 1:] - mean[0] * mean[1:]
    assert covariance[0] == pytest.approx(0, abs=1e-12)
    assert covariance[1] == pytest.approx(
        np.cov(np.where(a, 1, -1)[known], latents[known, 1], bias=True)[0, 1], abs=1e-12
    )
    np.testing.assert_array_equal(second[1:, 1:], sums.second)


def test_an_attribute_without_labels_uses_its_overall_mean():
    nowhere = np.zeros((len(LATENTS), 1), dtype=bool)
    sums = sum_packed(pack(LATENTS), BITS, ("a",), nowhere, nowhere)
    mean, second = joint_moments(sums, np.array([-0.9]))
    assert mean[0] == -0.9
    np.testing.assert_allclose(second[0, 1:], -0.9 * sums.mean)
    assert joint_moments(sums)[0][0] == 0


def test_statistics_without_attributes_are_empty():
    assert attribute_statistics(sum_packed(pack(LATENTS), BITS)).lift.shape == (0, BITS)


def test_significance_is_benjamini_hochberg():
    """Significant are the sorted p-values up to the last one below the rate times its rank over N."""
    for significant, lift, error in zip(
        STATISTICS.significant, STATISTICS.lift, STATISTICS.lift_error, strict=True
    ):
        p = 2 * stats.norm.sf(np.abs(lift / error))
        order = np.argsort(p)
        passed = np.flatnonzero(p[order] <= 0.05 * np.arange(1, BITS + 1) / BITS)
        np.testing.assert_array_equal(np.flatnonzero(significant), np.sort(order[: passed[-1] + 1]))


def test_a_random_attribute_has_no_significant_bits():
    rng = np.random.default_rng(3)
    found = [statistics_of(LATENTS, rng.random((len(LATENTS), 1)) < 0.5).significant.any() for _ in range(40)]
    assert np.mean(found) <= 0.15
    assert STATISTICS.significant[0, :6].all()
    assert STATISTICS.significant[1, 6:10].all()


def test_a_bit_that_equals_the_attribute_is_significant():
    latents = LATENTS.copy()
    latents[:, 0], latents[:, 1] = np.where(PRESENT[:, 0], 1, -1), 1
    assert statistics_of(latents, PRESENT[:, :1]).significant[0, :2].tolist() == [True, False]


def test_leading_bits_are_those_with_the_largest_lift():
    table = leading_bits(STATISTICS, 6)
    assert sorted(row["bit"] for row in table["a"]) == list(range(6))
    row = table["b"][0]
    assert row["lift"] == round(np.abs(STATISTICS.lift[1]).max(), 4)
    assert row["error"] == round(STATISTICS.lift_error[1, row["bit"]], 4)
    assert row["p_if_set"] == round((LATENTS[PRESENT[:, 1], row["bit"]] == 1).mean(), 4)
    assert row["p_if_unset"] == round((LATENTS[~PRESENT[:, 1], row["bit"]] == 1).mean(), 4)
    assert leading_bits(statistics_of(LATENTS, np.ones((len(LATENTS), 1), dtype=bool)), 6) == {}


def test_an_attribute_with_only_one_value_is_refused():
    constant = statistics_of(LATENTS, np.ones((len(LATENTS), 1), dtype=bool))
    with pytest.raises(UserError, match="'a' has only one value"):
        constant.index("a")


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.02, 0.3, 1.0]))
def test_discoveries_equal_those_of_scipy(seed, share):
    rng = np.random.default_rng(seed)
    p = rng.random((4, 40)) ** np.where(rng.random((4, 40)) < share, 6, 1)
    p[:, 5] = p[:, 6]
    np.testing.assert_array_equal(
        _discoveries(p), stats.false_discovery_control(p, axis=1) < FALSE_DISCOVERY_RATE
    )
