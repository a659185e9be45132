"""The limit of pixels of one image file, counted as they are held while it is decoded."""

from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from lbae.io.image_formats import MAX_PIXELS, START_OF_SCAN
from lbae.io.jpeg_header import components_of_first_scan

# Each scan runs over all pixels, in 0.7 ns per pixel. Encoders write about ten scans.
_MAX_SCANNED = 10**9
_ALWAYS_SCANS = 20  # allowed for pictures of any size
# Pillow decodes run-length BMPs, plain PPMs, and PPMs whose white is unusual in Python: 8 MiB in 1 to 4 s.
_MAX_PIXELS_IN_PYTHON, _MAX_BYTES_IN_PYTHON = 4_000_000, 2**23


def excess_of_pixels(image: ImageFile, size: tuple[int, int], data: bytes, max_pixels: int) -> str | None:
    """What exceeds the limit of pixels, and the limit, as words for an error; None if nothing does.

    A JPEG counts as large as it is decoded. If it has several scans, it counts at least half of its own
    pixels: libjpeg holds all its coefficients, up to 8 bytes per pixel. A decoded pixel takes up to 16 bytes
    while it is converted. Its scans times its pixels are at most a billion; 20 scans are always allowed.
    A picture that Pillow decodes in Python, not in C, has at most 4 million pixels and 8 MiB.

    Args:
        image: Opened and not yet decoded; a JPEG is already set to its smaller size (``draft``).
        size: Width and height in the file.
        data: The bytes of the file.
        max_pixels: The limit. No file may have more than ``MAX_PIXELS`` in any case.
    """
    stored, found = size[0] * size[1], f"{size[0]} x {size[1]} pixels"
    if stored > MAX_PIXELS:
        return f"{found}; allowed: {MAX_PIXELS} pixels"
    if image.width * image.height > max_pixels:
        scaled = "" if image.size == size else f", decoded at {image.width} x {image.height}"
        return f"{found}{scaled}; allowed: {max_pixels} pixels"
    most = _MAX_PIXELS_IN_PYTHON
    if any(tile.codec_name in Image.DECODERS for tile in image.tile) and (
        stored > most or len(data) > _MAX_BYTES_IN_PYTHON
    ):
        return (
            f"{found} and {len(data)} bytes in a slow coding (run-length BMP, PPM as text or whose white is"
            f" not 255); allowed: {most} pixels and {_MAX_BYTES_IN_PYTHON} bytes"
        )
    if isinstance(image, JpegImageFile) and _has_several_scans(image, data):
        if stored > 2 * max_pixels:
            return f"{found} in several scans (progressive JPEG); allowed: {2 * max_pixels} pixels"
        most = max(_ALWAYS_SCANS, _MAX_SCANNED // max(1, stored))
        if (scans := data.count(START_OF_SCAN)) > most:
            return f"{found} in {scans} scans; allowed: {most} scans of so many pixels"
    return None


def _has_several_scans(image: JpegImageFile, data: bytes) -> bool:
    """Whether a JPEG is progressive, or its first scan has not all components."""
    return bool(image.info.get("progressive")) or components_of_first_scan(data) < image.layers
