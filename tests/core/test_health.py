import numpy as np
import pytest

from lbae.core.health import bit_health


def test_health_of_known_bits():
    fair = np.array([1, 1, -1, -1], dtype=np.float32)
    latents = np.stack([fair, fair, -fair, np.ones(4, np.float32), np.array([1, -1, 1, -1], np.float32)], axis=1)
    health = bit_health(latents)
    assert health["dead"] == 1
    assert health["mean_abs"] == pytest.approx(0.2)
    assert health["entropy"] == pytest.approx(0.8)
    assert health["redundancy"] == pytest.approx(3 / 6)  # three of the six pairs of living bits say the same


def test_one_living_bit_has_no_redundancy():
    assert bit_health(np.array([[1.0, 1.0], [-1.0, 1.0]]))["redundancy"] == 0
