"""How many pixels of an image file may be decoded. ``MODEL`` draws 64 x 64 pixels from a larger JPEG."""

import io

import pytest
from PIL import Image

from lbae.config import ModelConfig
from lbae.io import pixel_limit
from lbae.io.images import ImageError, decode_image

MODEL = ModelConfig()


def photograph(size: tuple[int, int], kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 40).convert("RGB").save(buffer, kind, **options)
    return buffer.getvalue()


def in_three_scans(grey: bytes) -> bytes:
    """A baseline JPEG of three components, one per scan, each with the pixels of a grey one."""
    frame, scan = grey.index(b"\xff\xc0"), grey.index(b"\xff\xda")
    size = grey[frame + 4 : frame + 9]
    components = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    start = grey[:frame] + b"\xff\xc0\x00\x11" + size + b"\x03" + components + grey[frame + 13 : scan]
    scans = [b"\xff\xda\x00\x08\x01" + bytes([number, 0]) + grey[scan + 7 : -2] for number in (1, 2, 3)]
    return start + b"".join(scans) + grey[-2:]


def test_a_jpeg_counts_as_large_as_it_is_decoded():
    """A photograph of 50 megapixels, as from a phone, is decoded at an eighth of its width and height."""
    buffer = io.BytesIO()
    Image.new("RGB", (8160, 6120), "red").save(buffer, "JPEG")
    photo = buffer.getvalue()
    assert decode_image(photo, MODEL, max_pixels=1020 * 765).shape == (32, 32, 3)
    with pytest.raises(ImageError, match="8160 x 6120 pixels, decoded at 1020 x 765; allowed: 780299 pixels"):
        decode_image(photo, MODEL, max_pixels=1020 * 765 - 1)


def test_a_panorama_that_cannot_be_scaled_down_counts_in_full():
    with pytest.raises(ImageError, match="4000 x 100 pixels; allowed: 399999 pixels"):
        decode_image(photograph((4000, 100)), MODEL, max_pixels=399_999)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_other_formats_count_in_full(kind):
    file = photograph((400, 300), kind)
    assert decode_image(file, MODEL, max_pixels=120_000).shape == (32, 32, 3)
    with pytest.raises(ImageError, match="400 x 300 pixels; allowed: 119999 pixels"):
        decode_image(file, MODEL, max_pixels=119_999)


def grey_photograph() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((800, 600), 40).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "file",
    [
        photograph((800, 600), progressive=True),
        photograph(
            (800, 600), "MPO", save_all=True, progressive=True, append_images=[Image.new("RGB", (8, 8))]
        ),
        in_three_scans(grey_photograph()),
        b"\xff\xd8\xff" + in_three_scans(grey_photograph())[2:],  # padded
    ],
    ids=["progressive", "progressive MPO", "a scan per component", "padding between markers"],
)
def test_a_jpeg_in_several_scans_counts_half_of_its_pixels(file):
    """Its coefficients are all held: up to 8 bytes per pixel, half of what a decoded pixel takes."""
    assert decode_image(file, MODEL, max_pixels=240_000).shape == (32, 32, 3)
    with pytest.raises(ImageError, match=r"800 x 600 pixels in several scans .*; allowed: 479998 pixels"):
        decode_image(file, MODEL, max_pixels=239_999)


def test_a_jpeg_in_one_scan_is_not_taken_for_one_in_several():
    thumbnail = b"Exif\0\0" + photograph((8, 8), progressive=True)
    for file in (
        photograph((800, 600), exif=thumbnail),
        photograph((800, 600), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))]),
        photograph((800, 600), subsampling=0, restart_marker_rows=1),
    ):
        assert decode_image(file, MODEL, max_pixels=200 * 150).shape == (32, 32, 3)


def test_no_file_has_more_pixels_than_jobs_decode(monkeypatch):
    monkeypatch.setattr(pixel_limit, "MAX_PIXELS", 479_999)
    with pytest.raises(ImageError, match="800 x 600 pixels; allowed: 479999 pixels"):
        decode_image(photograph((800, 600)), MODEL, max_pixels=10**9)
    assert decode_image(photograph((799, 600)), MODEL).shape == (32, 32, 3)
