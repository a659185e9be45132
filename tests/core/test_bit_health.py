import numpy as np
import pytest

from lbae.core.latents.packing import pack
from lbae.core.moments.bit_health import bit_health, sampled_bit_health
from lbae.core.moments.moment_accumulator import sum_packed


def health(latents: np.ndarray) -> dict[str, float]:
    return bit_health(sum_packed(pack(latents.astype(np.int8)), latents.shape[1]))


def test_health_of_known_bits():
    fair = np.array([1, 1, -1, -1])
    found = health(np.stack([fair, fair, -fair, np.ones(4), np.array([1, -1, 1, -1])], axis=1))
    assert found["dead"] == 1
    assert found["mean_abs"] == pytest.approx(0.2)
    assert found["entropy"] == pytest.approx(0.8)
    assert found["redundancy"] == pytest.approx(3 / 6)  # three of the six pairs of varying bits correlate
    # The correlations of those four have the spectrum 3, 1, 0, 0, with an entropy of log 4 - 3/4 log 3.
    assert found["effective_rank"] == pytest.approx(4 / 3**0.75)


def test_independent_bits_have_full_rank_and_one_varying_bit_no_redundancy():
    every = np.array([[1 if row >> bit & 1 else -1 for bit in range(5)] for row in range(32)])
    assert health(every)["effective_rank"] == pytest.approx(5)
    one = health(np.array([[1, 1], [-1, 1]]))
    assert (one["redundancy"], one["effective_rank"]) == (0, pytest.approx(1))
    assert health(np.ones((2, 3)))["effective_rank"] == 0


@pytest.mark.parametrize("latent_dim", [7, 512, 1023])
def test_pairs_are_measured_on_at_most_512_bits(latent_dim):
    latents = np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.int8), size=(64, latent_dim))
    latents[:, [1, -1]] = latents[:, [2, 0]]
    latents[:, 3] = 1
    whole, some = health(latents), sampled_bit_health(latents)
    paired = health(latents[:, ::2] if latent_dim > 512 else latents)
    for name in ("mean_abs", "dead", "entropy"):
        assert some[name] == whole[name]
    for name in ("redundancy", "effective_rank"):
        assert some[name] == pytest.approx(paired[name])


def test_the_widest_latents_need_no_matrix_of_all_pairs():
    """A float64 matrix of 65,536 bits would take 32 GiB."""
    latents = np.ones((4, 65536), dtype=np.int8)
    latents[:2] = -1
    assert sampled_bit_health(latents) == pytest.approx(
        {"mean_abs": 0, "dead": 0, "entropy": 1, "redundancy": 1, "effective_rank": 1}
    )
