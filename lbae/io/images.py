"""Decode image files to uint8 arrays of a model's content size, encode arrays, and draw grids of images."""

import io
import itertools
import posixpath
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from lbae.config import ModelConfig
from lbae.errors import UserError
from lbae.io.image_formats import FORMATS, MAX_EXIF_BYTES, MAX_FILE_BYTES, MAX_PIXELS, open_image
from lbae.io.image_formats import ImageError as ImageError
from lbae.io.pixel_limit import excess_of_pixels

MOST_IN_A_PICTURE = 10_000  # images in the PNG of a job: beyond, no viewer shows one
_BACKGROUND = 255
_OVERSAMPLING = 2
_FRAME_MS = 80  # duration of an animation's frame
_ORIENTATION = 0x0112
# The transpose that turns an image of each EXIF orientation upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIXTEEN_BIT = ("PNG", "PPM")  # formats whose mode I holds 16 bits
_MAX_SIDE = 65_535  # JPEG's and GIF's own; decoders keep rows, and Pillow a pointer per row
_PIECE = 1024  # side in pixels of the pieces in which large images are converted


def decode_image(
    data: bytes | None,
    config: ModelConfig,
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] = FORMATS,
    still: bool = False,
) -> UInt8[np.ndarray, "H W C"]:
    """Decode an image to the content size of a model; see :func:`decode_square`."""
    return decode_square(data, config.content_size, config.image_channels, max_pixels, formats, still)


def decode_square(
    data: bytes | None,
    side: int,
    channels: int,
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] = FORMATS,
    still: bool = False,
) -> UInt8[np.ndarray, "H W C"]:
    """Decode an image: turn it upright (EXIF), convert to grey or RGB, centre-crop to a square, resize.

    An image that already has this size keeps its pixels. Transparent pixels are blended with white.
    White is the largest value of the type: 255 for 8 bits, 65535 for 16 bits, 1.0 for floats.

    No program is started. Beside the bytes of the file, the memory taken is at most 1.5 GB, or with another
    ``max_pixels`` 300 MB and 17 bytes per allowed pixel, and three times the file for copies of its metadata.

    Args:
        data: The bytes of an image file.
        side: Side in pixels of the decoded image.
        channels: 1 (grey) or 3 (RGB).
        max_pixels: The largest number of pixels, checked before decoding. Counted as in
            :func:`lbae.io.pixel_limit.excess_of_pixels`.
        formats: The allowed formats, of ``FORMATS``.
        still: Refuse animations. Otherwise the first frame is decoded, and no other.

    Raises:
        ImageError: The bytes are not a complete image, are in no allowed format, have too many pixels or too
            much metadata, are an animation although ``still`` is set, or are a JPEG with more than 500
            scans. Also for 32-bit integers and for floats outside [0, 1], whose white is unknown.
    """
    image = _decode(data, "L" if channels == 1 else "RGB", side, max_pixels, formats, still)
    if image.size != (side, side):
        image = ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
    return np.array(image).reshape(side, side, -1)


def image_size(data: bytes | None) -> tuple[int, int] | None:
    """Width and height as stored in the header; None if the bytes are not an image."""
    try:
        return open_image(data or b"", FORMATS).size
    except Exception:  # Pillow's plugins may raise any exception
        return None


def check_image(data: bytes | None) -> None:
    """Raise ImageError if :func:`decode_image` could not decode the bytes."""
    _decode(data, "RGB")


def _decode(
    data: bytes | None,
    mode: str,
    side: int | None = None,
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] = FORMATS,
    still: bool = False,
) -> Image.Image:
    """The upright image; a JPEG much larger than ``side`` is decoded at 1/2, 1/4 or 1/8 of its size."""
    if data is None:
        raise ImageError(f"no bytes: the image is missing, or has more than {MAX_FILE_BYTES} bytes")
    if not data:
        raise ImageError("no bytes")
    try:
        opened = open_image(data, formats)
        size = opened.size
        if max(size) > _MAX_SIDE:
            raise ImageError(f"{size[0]} x {size[1]} pixels; allowed: sides of {_MAX_SIDE} pixels")
        # Photographs from phones are MPO: a JPEG followed by more pictures, which are not an animation.
        if still and opened.format != "MPO" and getattr(opened, "is_animated", False):
            raise ImageError("it is animated; allowed: one frame")
        if side:
            opened.draft(mode, (_OVERSAMPLING * side, _OVERSAMPLING * side))
        if excess := excess_of_pixels(opened, size, data, max_pixels):
            raise ImageError(excess)
        opened.load()
        kind, image = opened.format, _upright(opened)
        del opened  # frees the decoder of a turned picture
        return _converted(image, kind, mode)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:  # from plugins that check a size before it is known here
        raise ImageError(f"too many pixels; allowed: {max_pixels} pixels") from error
    except Exception as error:  # Pillow's plugins may raise any exception
        raise ImageError(f"{type(error).__name__}: {error}".replace("\n", " ")[:200]) from error


def _upright(image: Image.Image) -> Image.Image:
    """The image, turned as its EXIF orientation says.

    Not with ``ImageOps.exif_transpose``, which rewrites all other tags and fails on a malformed one.
    """
    if (exif := len(image.info.get("exif", b""))) > MAX_EXIF_BYTES:
        raise ImageError(f"EXIF data of {exif} bytes; allowed: {MAX_EXIF_BYTES} bytes")
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # a malformed EXIF block may raise anything; viewers show such an image unturned
        return image
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _converted(image: Image.Image, kind: str | None, mode: str) -> Image.Image:
    """The image in ``mode``; one that takes several steps piece by piece, so that copies stay small."""
    if image.mode[0] not in "IF" and not image.has_transparency_data:
        return image if image.mode == mode else image.convert(mode)
    if max(image.size) <= _PIECE:
        return _eight_bit_opaque(image, kind).convert(mode)
    whole = Image.new(mode, image.size)
    for left, top in itertools.product(range(0, image.width, _PIECE), range(0, image.height, _PIECE)):
        box = (left, top, min(left + _PIECE, image.width), min(top + _PIECE, image.height))
        whole.paste(_eight_bit_opaque(image.crop(box), kind).convert(mode), box)
    return whole


def _eight_bit_opaque(image: Image.Image, kind: str | None) -> Image.Image:
    """An image of integers, of floats or with transparency, as 8 bits per channel without transparency.

    Pillow's own conversions clip larger values to 255 and show the colours under transparent pixels.
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
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))


def encode_image(image: UInt8[np.ndarray, "H W C"], kind: Literal["png", "jpeg", "webp", "ppm"]) -> bytes:
    """A grey or RGB image as PNG, as JPEG of quality 95, as lossless WebP, or as raw pixels with a header."""
    buffer = io.BytesIO()
    options: dict[str, dict[str, Any]] = {
        "png": {},
        "jpeg": {"quality": 95},
        "webp": {"lossless": True},
        "ppm": {},
    }
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, kind, **options[kind])
    return buffer.getvalue()


def encode_png(image: UInt8[np.ndarray, "H W C"]) -> bytes:
    """A grey or RGB image as PNG."""
    return encode_image(image, "png")


def encode_webp(frames: UInt8[np.ndarray, "K H W C"], scale: int = 4) -> bytes:
    """Frames as a lossless WebP that loops forward and back; ``scale`` enlarges them by repeating pixels."""
    colour = np.broadcast_to(frames, (*frames.shape[:3], 3))
    forward = [Image.fromarray(frame.repeat(scale, axis=0).repeat(scale, axis=1)) for frame in colour]
    first, *rest = [*forward, *forward[-2:0:-1]]
    buffer = io.BytesIO()
    first.save(buffer, "WEBP", save_all=True, append_images=rest, duration=_FRAME_MS, loop=0, lossless=True)
    return buffer.getvalue()


def grid(
    images: UInt8[np.ndarray, "K H W C"], columns: int, scale: int = 2, gap: int = 2
) -> UInt8[np.ndarray, "GH GW C"]:
    """One picture of all images in a grid, row by row, enlarged ``scale`` times by repeating pixels."""
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
    return grid(images, columns=square_columns(len(images)))


def square_columns(count: int) -> int:
    """The number of columns with which ``count`` images have about as many rows."""
    return max(1, round(count**0.5 + 0.49))


def is_picture(uri: str) -> bool:
    """Whether an output URI ends in ``.png``; raises UserError for the suffix of another image format."""
    suffix = posixpath.splitext(uri)[1].lower()
    if suffix in (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"):
        raise UserError(f"pictures are written as PNG; name the output *.png instead of {uri}")
    return suffix == ".png"
