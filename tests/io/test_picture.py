"""The picture that ``lbae.grid`` makes."""

import io

import numpy as np
import pytest
from PIL import Image

import lbae
from lbae.errors import UserError
from lbae.io.images import grid


def test_a_grid_is_a_png_that_notebooks_show(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    picture = lbae.grid(images)
    with Image.open(io.BytesIO(picture._repr_png_())) as shown:
        np.testing.assert_array_equal(np.asarray(shown), grid(images, 3, scale=4))
    assert repr(picture) == "Picture(392 x 262 pixels)"
    picture.save(str(tmp_path / "p.png"))
    assert (tmp_path / "p.png").read_bytes() == picture._repr_png_()


@pytest.mark.parametrize(("columns", "width"), [(1, 132), (5, 5 * 130 + 2), (9, 5 * 130 + 2)])
def test_a_grid_has_the_columns_asked_for(columns, width):
    assert lbae.grid(np.zeros((5, 32, 32, 1), np.uint8), columns).pixels.shape[1] == width


def test_large_images_keep_their_size():
    assert lbae.grid(np.zeros((1, 256, 256, 3), np.uint8)).pixels.shape == (260, 260, 3)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 8, 8, 1)),
        np.zeros((8, 8, 1), np.uint8),
        np.zeros((2, 8, 8, 2), np.uint8),
        np.zeros((0, 8, 8, 1), np.uint8),
        [1, 2],
    ],
)
def test_other_arrays_are_refused(images):
    with pytest.raises(UserError, match=r"images are .*; allowed: uint8 \(K, H, W, C\)"):
        lbae.grid(images)


def test_mistakes_are_named(tmp_path):
    images = np.zeros((2, 8, 8, 1), np.uint8)
    with pytest.raises(UserError, match="columns is 0; allowed: 1 or more"):
        lbae.grid(images, 0)
    for name in ("p.jpg", "p"):
        with pytest.raises(UserError, match=r"written as PNG; name .* \*.png instead of"):
            lbae.grid(images).save(str(tmp_path / name))
    assert list(tmp_path.iterdir()) == []
