import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

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
def test_every_colour_mode_is_converted_to_the_models_channels(mode):
    image = Image.new("RGB", (40, 40), (200, 30, 30)).convert(mode)
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert decode_image(saved(image, kind), COLOUR).shape == (32, 32, 3)
    assert decode_image(saved(image, kind), GREY).shape == (28, 28, 1)


def test_exif_orientation_is_applied():
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)
    pixels[:16] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    assert decode_image(saved(Image.fromarray(pixels), "PNG", exif=exif), COLOUR)[:16].max() == 0


def test_sixteen_bits_become_eight_and_transparent_pixels_become_white():
    deep = Image.fromarray(np.full((32, 32), 200 * 256 + 17, dtype=np.uint16))
    np.testing.assert_array_equal(decode_image(saved(deep, "PNG"), COLOUR), 200)
    clear = Image.new("RGBA", (32, 32), (10, 20, 30, 0))
    np.testing.assert_array_equal(decode_image(saved(clear, "PNG"), COLOUR), 255)


RAMP = np.tile(np.linspace(20, 235, 32).astype(np.uint8), (32, 1))


@pytest.mark.parametrize(
    ("pixels", "kinds"),
    [
        (RAMP, ("PNG", "TIFF")),
        (RAMP.astype(np.uint16) * 257, ("PNG", "TIFF", "PPM")),
        ((RAMP / 255).astype(np.float32), ("TIFF", "PPM")),
    ],
)
def test_white_is_the_largest_value_of_the_type(pixels, kinds):
    for kind in kinds:
        found = decode_image(saved(Image.fromarray(pixels), kind), COLOUR)
        np.testing.assert_array_equal(found, RAMP[..., None].repeat(3, axis=2))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (RAMP.astype(np.int32), r"32-bit integers \(values from 20 to 235\); allowed: 8 or 16 bits"),
        (RAMP.astype(np.int32) * 2**20, "32-bit integers"),
        (RAMP.astype(np.float32), r"^floats \(values from 20 to 235\); allowed: floats in \[0, 1\]"),
        ((RAMP / 255 - 0.5).astype(np.float32), r"floats \(values from -0.4"),
        (np.where(RAMP > 100, np.nan, 0).astype(np.float32), r"floats \(values from nan"),
    ],
)
def test_numbers_whose_white_is_unknown_are_refused(pixels, message):
    with pytest.raises(ImageError, match=message):
        decode_image(saved(Image.fromarray(pixels), "TIFF"), GREY)


def exif_block(*entries: tuple[int, int, int, bytes]) -> bytes:
    """An EXIF block with the given tags, types, counts and values, valid or not."""
    directory, data = struct.pack(">H", len(entries)), b""
    after = 8 + 2 + 12 * len(entries) + 4
    for tag, kind, count, value in sorted(entries):
        directory += struct.pack(">HHI", tag, kind, count)
        directory += value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(">I", after + len(data))
        data += value if len(value) > 4 else b""
    return b"Exif\0\0MM\0*\0\0\0\x08" + directory + b"\0\0\0\0" + data


ORIENTATION_6 = (0x112, 3, 1, struct.pack(">H", 6))


@pytest.mark.filterwarnings("ignore:Tag data larger than file")  # from Pillow
@pytest.mark.parametrize(
    "other",
    [
        (0x11A, 10, 1, struct.pack(">ii", -1, 0)),  # XResolution, a ratio of -1 to 0
        (0x11A, 2, 3, b"72\0"),  # as text
        (0x11A, 5, 1000, b"\0" * 8),  # cut short
        (0x8769, 4, 1, struct.pack(">I", 2**31)),  # a directory beyond the end
        (0x10F, 99, 1, b"\0\0\0\0"),  # an unknown type
        (0x9286, 7, 0, b""),
    ],
)
def test_a_malformed_tag_loses_neither_the_picture_nor_its_orientation(other):
    upside = np.zeros((64, 64), dtype=np.uint8)
    upside[:, :32] = 255  # the left half, which orientation 6 puts on top
    data = saved(Image.fromarray(upside), "JPEG", exif=exif_block(ORIENTATION_6, other))
    found = decode_image(data, GREY)
    assert found[:10].min() > 200
    assert found[-10:].max() < 50


@pytest.mark.parametrize("value", [0, 9, 6000])
def test_an_invalid_orientation_or_a_broken_exif_block_leaves_the_picture_unturned(value):
    for block in (
        exif_block((0x112, 3, 1, struct.pack(">H", value))),
        b"Exif\0\0MM\0",
        b"Exif\0\0nothing at all",
    ):
        found = decode_image(saved(Image.fromarray(RAMP), "JPEG", exif=block, quality=95), COLOUR)
        assert np.abs(found[..., 0].astype(int) - RAMP).max() < 10


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_does_it(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    data = saved(Image.fromarray(pixels), "PNG", exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.array(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(decode_image(data, COLOUR), expected)


def test_an_animation_is_decoded_as_its_first_frame():
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
def test_bytes_that_are_not_an_image_raise_an_image_error(data):
    with pytest.raises(ImageError):
        decode_image(data, GREY)


def test_an_image_error_has_the_same_text_in_every_run():
    allowed = r"\(PNG, JPEG, WEBP, GIF, BMP, TIFF, PPM\)"
    with pytest.raises(ImageError, match=rf"^not in an allowed format {allowed}$"):
        decode_image(b"not an image", GREY)


def test_an_image_of_more_pixels_than_allowed_is_refused_from_its_header():
    with pytest.raises(ImageError, match=r"^10000 x 10000 pixels; allowed: 89478485 pixels$"):
        decode_image(b"P5 10000 10000 255\n", GREY)
    small = saved(Image.new("L", (40, 40)), "PNG")
    decode_image(small, GREY, max_pixels=1600)
    with pytest.raises(ImageError, match=r"^40 x 40 pixels; allowed: 1599 pixels$"):
        decode_image(small, GREY, max_pixels=1599)


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGBA", "PNG", {}),
        ("LA", "PNG", {}),
        ("P", "PNG", {"transparency": bytes(range(256))}),
        ("RGB", "PNG", {"transparency": (1, 2, 3)}),
        ("CMYK", "TIFF", {}),
        ("I;16", "TIFF", {}),
        ("F", "TIFF", {}),
    ],
)
def test_a_picture_that_is_converted_in_pieces_has_no_seams(mode, kind, options):
    noise = np.random.default_rng(0).integers(0, 256, (1108, 1108, 4), dtype=np.uint8)
    numbers = {"I;16": noise.view("<u2")[..., 0], "F": noise[..., 0] / np.float32(255)}
    if mode in numbers:
        data = saved(Image.fromarray(numbers[mode]), kind)
        flat = Image.fromarray(noise[..., 1 if mode == "I;16" else 0])
    else:
        data = saved(Image.fromarray(noise).convert(mode), kind, **options)
        with Image.open(io.BytesIO(data)) as image:
            flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    model = ModelConfig(image_size=2048, padding=(2048 - 1108) // 2, channels=(1,) * 9)
    np.testing.assert_array_equal(decode_image(data, model), np.array(flat.convert("RGB")))


def of_scans(kind: str, count: int) -> bytes:
    """A progressive JPEG, or an MPO of two pictures; the first one's last scan repeats up to ``count``."""
    image = Image.linear_gradient("L")
    jpeg = saved(image, "JPEG", progressive=True)
    behind = {"save_all": True, "append_images": [image]} if kind == "MPO" else {}
    data, last = saved(image, kind, progressive=True, **behind), jpeg[jpeg.rindex(SOS) : -2]
    return data.replace(last, last * (count - data.count(SOS) + 1), 1)


@pytest.mark.parametrize("kind", ["JPEG", "MPO"])
def test_a_jpeg_with_too_many_scans_raises_an_image_error(kind):
    """A scan of a few bytes takes as long to decode as a scan with all pixels."""
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


def test_only_png_names_a_picture():
    assert is_picture("s3://bucket/a.PNG")
    assert not is_picture("runs.v2/samples")
    with pytest.raises(UserError, match="pictures are written as PNG"):
        is_picture("a.jpg")
