import numpy as np
import pytest

from lbae.core.latents.packing import pack
from lbae.core.moments.drift import moment_drift
from lbae.core.moments.moment_accumulator import sum_packed
from lbae.core.moments.moment_sums import MomentSums


def latents(seed: int, count: int = 50, n: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array([-1, 1], dtype=np.int8), size=(count, n))


def test_moment_matrix_has_the_boundary_first():
    z = latents(2)
    augmented = np.concatenate([np.ones((50, 1)), z], axis=1)
    np.testing.assert_allclose(sum_packed(pack(z), 5).moment_matrix, augmented.T @ augmented / 50, rtol=1e-15)


def test_sums_of_different_attributes_cannot_be_added():
    a = MomentSums(sums=np.zeros((4, 4), dtype=np.int64), latent_dim=1, attributes=("a",))
    b = MomentSums(sums=np.zeros((4, 4), dtype=np.int64), latent_dim=1, attributes=("b",))
    with pytest.raises(ValueError, match="cannot be added or subtracted"):
        a + b


def test_rows_that_are_not_there_cannot_be_removed():
    z = latents(3)
    ones = np.ones((2, 5), dtype=np.int8)
    sums, few = sum_packed(pack(z), 5), sum_packed(pack(z[:49]), 5)
    assert (sums - few).count == 1
    with pytest.raises(ValueError, match="not among the rows summed"):
        few - sums
    with pytest.raises(ValueError, match="not among the rows summed"):
        sum_packed(pack(-ones), 5) - sum_packed(pack(ones[:1]), 5)


def test_drift_between_samples_of_one_distribution_is_as_expected():
    found = [
        moment_drift(
            sum_packed(pack(latents(i, 2000, 40)), 40), sum_packed(pack(latents(99 + i, 1000, 40)), 40)
        )
        for i in range(5)
    ]
    assert np.mean([d.frobenius for d in found]) == pytest.approx(
        np.mean([d.expected for d in found]), rel=0.05
    )
    assert np.std(np.concatenate([d.z for d in found])) == pytest.approx(1, abs=0.2)


def test_drift_sees_a_bit_that_changed():
    a, b = latents(1, 1000), latents(2, 1000)
    a[:, 0], b[:, 0] = 1, -1
    a[:, 1], b[:, 1] = 1, 1
    found = moment_drift(sum_packed(pack(a), 5), sum_packed(pack(b), 5))
    assert found.z[1] == 0
    assert np.argmax(np.abs(found.z)) == 0
    np.testing.assert_allclose(found.z[0], 2 / np.sqrt(1 / 1000 + 1 / 1000))
    assert found.frobenius > 3 * found.expected
