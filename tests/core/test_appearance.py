import numpy as np
import pytest

from lbae.core.prior.appearance import appearance


def bars(angle: float, count: int = 1) -> np.ndarray:
    """Stripes whose brightness changes along ``angle``."""
    y, x = np.mgrid[:32, :32]
    wave = 127 + 100 * np.sin(0.8 * (x * np.cos(angle) + y * np.sin(angle)))
    return np.repeat(wave.astype(np.uint8)[None, :, :, None], count, axis=0)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(appearance(a) - appearance(b)))


@pytest.mark.parametrize("index", range(8))
def test_a_gradient_is_counted_under_its_orientation(index):
    found = appearance(bars(index * np.pi / 8))[0, :512].reshape(8, 64)
    assert ((found**2).sum(axis=1)).argmax() == index
    assert abs((found**2).sum() - 1) < 1e-5


def test_orientations_ignore_contrast_and_sign_but_not_the_angle():
    stripes = bars(0.3)
    assert distance(stripes, 255 - stripes) < 0.1
    assert distance(stripes, 64 + stripes // 2) < 0.1
    assert distance(stripes, bars(0.3 + np.pi / 2)) > 1


def test_colours_and_their_positions_matter():
    red, upper = (np.zeros((1, 32, 32, 3), dtype=np.uint8) for _ in range(2))
    red[..., 0], upper[:, :16, :, 0] = 255, 255
    blue, lower = np.flip(red, axis=3).copy(), np.flip(upper, axis=1).copy()
    assert distance(red, blue) > 0.5
    assert distance(upper, lower) > 0.5
    assert np.isfinite(appearance(red)).all()  # no gradient anywhere


@pytest.mark.parametrize("count", [0, 1, 300])
def test_the_vector_of_an_image_does_not_depend_on_other_images(count):
    images = np.random.default_rng(0).integers(256, size=(count, 28, 28, 1), dtype=np.uint8)
    found = appearance(images)
    assert found.shape == (count, 528)
    for i in range(0, count, 100):
        np.testing.assert_allclose(found[i], appearance(images[i : i + 1])[0], atol=1e-6)
