"""The segments of a JPEG before its first scan, found before Pillow keeps them in a list."""

import re

# Encoders write about 20. EXIF, colour profiles and XMP of 16 MB need 256 segments each.
_MAX_SEGMENTS = 2000
# The most bytes between two segments. Pillow skips them one by one, in 0.1 to 0.3 microseconds per byte.
_MAX_GAP = 2**12
_MARKER = re.compile(rb"\xff+([^\xff])", re.DOTALL)
_START_OF_SCAN = 0xDA
_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
# Markers that Pillow reads no length behind, as a stuffed zero; libjpeg refuses most of them.
_WITHOUT_LENGTH = {0x00, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)}


def excess_of_header(data: bytes) -> str | None:
    """What is wrong with a JPEG's segments, and the limit, as words for an error; None if nothing is.

    The limits: 2,000 segments, one of them with the picture's size, and 4,096 bytes between two.
    """
    found = _segments(data)
    if len(found) > _MAX_SEGMENTS:
        return f"more than {_MAX_SEGMENTS} segments before its pixels; allowed: {_MAX_SEGMENTS} segments"
    if not found or found[-1][0] != _START_OF_SCAN:
        return f"no pixels, or more than {_MAX_GAP} bytes between two segments"
    if (sizes := sum(marker in _START_OF_FRAME for marker, _ in found)) != 1:
        return f"{sizes} segments with its size; allowed: 1 segment"
    return None


def components_of_first_scan(data: bytes) -> int:
    """How many components the first scan of a JPEG has, which has no excess."""
    return data[_segments(data)[-1][1] + 2]


def _segments(data: bytes) -> list[tuple[int, int]]:
    """Marker and place of content of each segment up to the first scan; at most one over the limit."""
    found: list[tuple[int, int]] = []
    at = 0
    while len(found) <= _MAX_SEGMENTS and (match := _MARKER.search(data, at, at + _MAX_GAP)):
        marker, at = match[1][0], match.end()
        found.append((marker, at))
        if marker == _START_OF_SCAN:
            break
        if marker not in _WITHOUT_LENGTH:
            at += max(2, int.from_bytes(data[at : at + 2]))
    return found
