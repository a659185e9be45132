"""The limit of pixels of one image file, counted as they are held while it is decoded."""

from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from lbae.io.image_formats import MAX_PIXELS

_START_OF_SCAN = 0xDA
_WITHOUT_LENGTH = {0x00, 0x01, *range(0xD0, 0xDA)}  # markers without a segment, and a stuffed zero


def excess_of_pixels(image: ImageFile, size: tuple[int, int], data: bytes, max_pixels: int) -> str | None:
    """What exceeds the limit of pixels, and the limit, as words for an error; None if nothing does.

    A JPEG counts as large as it is decoded. If it has several scans, it counts at least half of its own
    pixels: libjpeg holds all its coefficients, up to 8 bytes per pixel. A decoded pixel takes up to 16 bytes
    while it is converted.

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
    if isinstance(image, JpegImageFile) and stored > 2 * max_pixels and _has_several_scans(image, data):
        return f"{found} in several scans (progressive JPEG); allowed: {2 * max_pixels} pixels"
    return None


def _has_several_scans(image: JpegImageFile, data: bytes) -> bool:
    """Whether a JPEG is progressive, or its first scan has not all components."""
    at = data.index(b"\xff")
    while (marker := data[at + 1]) != _START_OF_SCAN:
        if marker == 0xFF:  # padding before a marker
            at += 1
        else:
            at += 2 if marker in _WITHOUT_LENGTH else 2 + int.from_bytes(data[at + 2 : at + 4])
        at = data.index(b"\xff", at)
    return bool(image.info.get("progressive")) or data[at + 4] < image.layers
