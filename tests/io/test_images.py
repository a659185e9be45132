import io

import numpy as np
import pytest
from PIL import Image

from lbae.config import ModelConfig
from lbae.errors import UserError
from lbae.io.images import ImageError, check_image, decode_image, encode_png, grid, is_picture, square_grid

GREY = ModelConfig(image_channels=1, padding=2)
COLOUR = ModelConfig()
SOS = b"\xff\xda"  # the start of a scan in a JPEG


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_an_image_of_the_content_size_keeps_its_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 1), dtype=np.uint8)
    np.testing.assert_array_equal(decode_image(encode_png(pixels), GREY), pixels)


@pytest.mark.parametrize("kind", ["webp", "bmp", "tiff"])
def test_other_lossless_formats_hold_the_same_pixels(kind):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    options = {"lossless": True} if kind == "webp" else {}
    np.testing.assert_array_equal(
        decode_image(saved(Image.fromarray(pixels), kind, **options), COLOUR), pixels
    )


def test_another_size_is_resized_and_centre_cropped():
    wide = np.zeros((64, 192, 3), dtype=np.uint8)
    wide[:, 64:128] = 255
    assert decode_image(saved(Image.fromarray(wide), "PNG"), COLOUR).min() > 200


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK", "1"])
def test_every_mode_becomes_the_models(mode):
    image = Image.new("RGB", (40, 40), (200, 30, 30)).convert(mode)
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert decode_image(saved(image, kind), COLOUR).shape == (32, 32, 3)
    assert decode_image(saved(image, kind), GREY).shape == (28, 28, 1)


def test_exif_orientation_is_followed():
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)
    pixels[:16] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    assert decode_image(saved(Image.fromarray(pixels), "PNG", exif=exif), COLOUR)[:16].max() == 0


def test_sixteen_bits_become_eight_and_what_is_transparent_is_white():
    deep = Image.fromarray(np.full((32, 32), 200 * 256 + 17, dtype=np.uint16))
    np.testing.assert_array_equal(decode_image(saved(deep, "PNG"), COLOUR), 200)
    clear = Image.new("RGBA", (32, 32), (10, 20, 30, 0))
    np.testing.assert_array_equal(decode_image(saved(clear, "PNG"), COLOUR), 255)


def test_an_animation_is_its_first_frame():
    frames = [Image.new("P", (32, 32), colour) for colour in (0, 255)]
    for frame in frames:
        frame.putpalette([value for value in range(256) for _ in range(3)])
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode_image(data, COLOUR), 0)


def test_jpeg_and_png_of_one_photograph_look_alike():
    ramp = np.linspace(0, 255, 90).astype(np.uint8)
    photograph = Image.fromarray(
        np.stack([np.tile(ramp, (120, 1)), np.tile(ramp[::-1], (120, 1))] * 2, axis=-1)[..., :3]
    )
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned to the right
    jpeg, png = (
        decode_image(saved(photograph, kind, exif=exif), COLOUR).astype(int) for kind in ("JPEG", "PNG")
    )
    assert np.abs(jpeg - png).max() < 12
    assert np.abs(png[0] - png[-1]).max() > 100  # the ramp runs from top to bottom now


@pytest.mark.parametrize("data", [None, b"", b"not an image", saved(Image.new("L", (50, 50)), "JPEG")[:200]])
def test_what_is_no_image_is_an_image_error(data):
    with pytest.raises(ImageError):
        decode_image(data, GREY)


def test_the_error_of_a_file_is_the_same_in_every_run():
    with pytest.raises(ImageError, match=r"^UnidentifiedImageError: no image format that is known$"):
        decode_image(b"not an image", GREY)


def test_a_decompression_bomb_is_an_image_error(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="exceeds limit"):
        decode_image(saved(Image.new("L", (40, 40)), "PNG"), GREY)


def of_scans(kind: str, count: int) -> bytes:
    """A progressive JPEG, or an MPO of two, with the first one's last scan as often as it takes."""
    image = Image.linear_gradient("L")
    jpeg = saved(image, "JPEG", progressive=True)
    behind = {"save_all": True, "append_images": [image]} if kind == "MPO" else {}
    data, last = saved(image, kind, progressive=True, **behind), jpeg[jpeg.rindex(SOS) : -2]
    return data.replace(last, last * (count - data.count(SOS) + 1), 1)


@pytest.mark.parametrize("kind", ["JPEG", "MPO"])
def test_a_jpeg_of_more_scans_than_an_encoder_writes_is_an_image_error(kind):
    """A scan of a few bytes takes as long as one of all pixels."""
    data = of_scans(kind, 500)
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == kind
    np.testing.assert_array_equal(decode_image(data, GREY), decode_image(of_scans(kind, 20), GREY))
    for read in (check_image, lambda data: decode_image(data, GREY)):
        with pytest.raises(ImageError, match=r"^a JPEG of 501 scans; allowed: 500 scans$"):
            read(of_scans(kind, 501))


def test_grid_puts_images_row_by_row():
    images = np.arange(3, dtype=np.uint8)[:, None, None, None].repeat(2, 1).repeat(2, 2)
    picture = grid(images, columns=2, scale=1, gap=1)
    assert picture.shape == (7, 7, 1)
    assert [picture[1, 1, 0], picture[1, 4, 0], picture[4, 1, 0], picture[4, 4, 0]] == [0, 1, 2, 255]
    assert (
        square_grid(np.zeros((9, 2, 2, 1), dtype=np.uint8)).shape[0]
        == square_grid(np.zeros((9, 2, 2, 1), np.uint8)).shape[1]
    )


def test_output_names():
    assert is_picture("s3://bucket/a.PNG")
    assert not is_picture("runs.v2/samples")
    with pytest.raises(UserError, match="pictures are written as PNG"):
        is_picture("a.jpg")
