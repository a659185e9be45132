"""Image files to uint8 arrays of a model's content size, arrays to PNG, and pictures made of many images."""

import io
import posixpath
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from lbae.config import ModelConfig
from lbae.errors import UserError

_BACKGROUND = 255
_OVERSAMPLING = 2
_FRAME_MS = 80  # of an animation
_ORIENTATION = 0x0112
# What turns an image of each EXIF orientation upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIXTEEN_BIT = ("PNG", "PPM", "JPEG2000")  # formats whose mode I holds 16 bits
# Start of a scan of a JPEG. Inside a scan, every 0xff is followed by 0 or a restart marker.
_SOS = b"\xff\xda"
# Every scan of a progressive JPEG runs over all of its pixels, however few bytes it has: 42 for 25 megapixels
# and 16 ms. Encoders write about ten. The rest leaves room for pictures in the metadata and for the film
# behind a phone's photograph, 16 MB of which hold these two bytes 256 times by chance. TurboJPEG's own limit,
# which Pillow does not set, is 500 too.
_MAX_SCANS = 500


class ImageError(ValueError):
    """Bytes that cannot be decoded as an image."""


def decode_image(
    data: bytes | None,
    config: ModelConfig,
    max_pixels: int | None = None,
    formats: tuple[str, ...] | None = None,
    still: bool = False,
) -> UInt8[np.ndarray, "H W C"]:
    """Decode, turn upright (EXIF), convert to grey or RGB, centre-crop to a square and resize to the content
    size.

    An image that has this size already keeps its pixels; transparent ones are put on white. White is the
    largest value of the type: 255 of 8 bits, 65535 of 16, 1.0 of floats. ImageError for floats beyond [0, 1]
    and for 32-bit integers, whose white nothing says.

    ImageError also when the bytes are no image, are cut short, are a JPEG of more than 500 scans or unpack to
    more pixels than ``max_pixels``, by default Pillow's limit; the header says how many before anything is
    unpacked. Of strangers' bytes nothing but ``formats`` (Pillow's names) should be tried: ICO and EPS have
    no limit of their own for what they hold. Where only ``still`` images make sense, animations are an
    ImageError too.
    """
    side = config.content_size
    image = _decode(data, "L" if config.image_channels == 1 else "RGB", side, max_pixels, formats, still)
    if image.size != (side, side):
        image = ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
    return np.array(image).reshape(side, side, -1)


def image_size(data: bytes | None) -> tuple[int, int] | None:
    """Width and height as stored, by the header; None where there is no image."""
    try:
        with Image.open(io.BytesIO(data or b"")) as image:
            return image.size
    except Exception:  # Pillow's plugins raise whatever their parsers run into
        return None


def check_image(data: bytes | None) -> None:
    """ImageError when :func:`decode_image` could not decode the bytes."""
    _decode(data, "RGB")


def _decode(
    data: bytes | None,
    mode: str,
    side: int | None = None,
    max_pixels: int | None = None,
    formats: tuple[str, ...] | None = None,
    still: bool = False,
) -> Image.Image:
    """The upright image. A JPEG much larger than ``side`` is decoded at a half, a quarter or an eighth of its
    size.
    """
    if not data:
        raise ImageError("no bytes")
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            allowed = max_pixels or Image.MAX_IMAGE_PIXELS
            if allowed and image.width * image.height > allowed:
                raise ImageError(f"{image.width} x {image.height} pixels; allowed: {allowed} pixels")
            if image.format in ("JPEG", "MPO") and (scans := data.count(_SOS)) > _MAX_SCANS:
                raise ImageError(f"a JPEG of {scans} scans; allowed: {_MAX_SCANS} scans")
            # Photographs from phones are MPO: a JPEG with more pictures behind it, which are not shown in
            # turn.
            if still and image.format != "MPO" and getattr(image, "is_animated", False):
                raise ImageError("it is animated; allowed: one frame")
            if side:
                image.draft(mode, (_OVERSAMPLING * side, _OVERSAMPLING * side))
            image.load()
            return _eight_bit_opaque(_upright(image), image.format).convert(mode)
    except ImageError:
        raise
    except UnidentifiedImageError as error:  # its own message names an address in memory
        known = "that is known" if formats is None else f"of those that are allowed ({', '.join(formats)})"
        raise ImageError(f"UnidentifiedImageError: no image format {known}") from error
    except Exception as error:  # Pillow's plugins raise whatever their parsers run into
        raise ImageError(f"{type(error).__name__}: {error}".replace("\n", " ")[:200]) from error


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF says.

    Not by ``ImageOps.exif_transpose``, which writes all other tags again and fails on a malformed one.
    """
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # whatever a malformed block makes Pillow raise: viewers show such an image as it is
        return image
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _eight_bit_opaque(image: Image.Image, kind: str | None) -> Image.Image:
    """The image with 8 bits and no transparency.

    Pillow's own conversions clip more bits to 8, and show what lies under transparent pixels.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in _SIXTEEN_BIT):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        values = np.asarray(image)
        found = f"values from {values.min():g} to {values.max():g}"
        if image.mode == "I":
            raise ImageError(
                f"signed or 32-bit integers ({found}); allowed: 8 or 16 bits, or floats in [0, 1]"
            )
        if not ((values >= 0) & (values <= 1)).all():
            raise ImageError(f"floats ({found}); allowed: floats in [0, 1], or 8 or 16 bits")
        return Image.fromarray(np.round(values * 255).astype(np.uint8))
    if image.has_transparency_data:
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image


def encode_image(image: UInt8[np.ndarray, "H W C"], kind: Literal["png", "jpeg", "webp"]) -> bytes:
    """A grey or RGB image as PNG, as JPEG of quality 95, or as lossless WebP."""
    buffer = io.BytesIO()
    options: dict[str, dict[str, Any]] = {"png": {}, "jpeg": {"quality": 95}, "webp": {"lossless": True}}
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, kind, **options[kind])
    return buffer.getvalue()


def encode_png(image: UInt8[np.ndarray, "H W C"]) -> bytes:
    """A grey or RGB image as PNG."""
    return encode_image(image, "png")


def encode_webp(frames: UInt8[np.ndarray, "K H W C"], scale: int = 4) -> bytes:
    """Frames as a lossless animation that runs there and back for ever, enlarged ``scale`` times without
    smoothing.
    """
    large = np.concatenate([frames, frames[-2:0:-1]]).repeat(scale, axis=1).repeat(scale, axis=2)
    first, *rest = [Image.fromarray(np.broadcast_to(frame, (*frame.shape[:2], 3))) for frame in large]
    buffer = io.BytesIO()
    first.save(buffer, "WEBP", save_all=True, append_images=rest, duration=_FRAME_MS, loop=0, lossless=True)
    return buffer.getvalue()


def grid(
    images: UInt8[np.ndarray, "K H W C"], columns: int, scale: int = 2, gap: int = 2
) -> UInt8[np.ndarray, "GH GW C"]:
    """One picture of all images, row by row, enlarged ``scale`` times without smoothing."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    large = images.repeat(scale, axis=1).repeat(scale, axis=2)
    cell_height, cell_width = height * scale + gap, width * scale + gap
    canvas = np.full(
        (rows * cell_height + gap, columns * cell_width + gap, channels), _BACKGROUND, dtype=np.uint8
    )
    for index, image in enumerate(large):
        top, left = index // columns * cell_height + gap, index % columns * cell_width + gap
        canvas[top : top + height * scale, left : left + width * scale] = image
    return canvas


def square_grid(images: UInt8[np.ndarray, "K H W C"]) -> UInt8[np.ndarray, "GH GW C"]:
    """:func:`grid` with about as many rows as columns."""
    return grid(images, columns=max(1, round(len(images) ** 0.5 + 0.49)))


def is_picture(uri: str) -> bool:
    """Whether an output URI names one PNG; UserError for another image suffix."""
    suffix = posixpath.splitext(uri)[1].lower()
    if suffix in (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"):
        raise UserError(f"pictures are written as PNG; name the output *.png instead of {uri}")
    return suffix == ".png"
