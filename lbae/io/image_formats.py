"""The image formats that are decoded, and opening a file of one of them.

Only these formats of the many that Pillow reads are opened, and no other plugin of it is called. Some formats
start programs (EPS), or hold pictures without a limit of pixels (ICO). The decoders of JPEG 2000 and AVIF
allocate memory that does not follow from the picture's size. The memory and time that the metadata of the
allowed formats cost Pillow, before the picture's size is known, are checked first.
"""

import functools
import io
import re
import warnings
from collections.abc import Callable

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from lbae.io.jpeg_header import excess_of_header
from lbae.io.png_chunks import excess_of_chunks
from lbae.io.tiff_tags import excess_of_tags

_FORMATS: dict[str, tuple[bytes, Callable[[io.BytesIO], ImageFile.ImageFile]]] = {
    "PNG": (rb"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    "JPEG": (rb"\xff\xd8\xff", JpegImagePlugin.jpeg_factory),  # also MPO, the photographs of phones
    "WEBP": (rb"(?s)RIFF....WEBPVP8[ LX]", WebPImagePlugin.WebPImageFile),
    "GIF": (rb"GIF8[79]a", GifImagePlugin.GifImageFile),
    "BMP": (rb"BM", BmpImagePlugin.BmpImageFile),
    "TIFF": (rb"II\*\0|MM\0\*|II\+\0", TiffImagePlugin.TiffImageFile),  # the last is BigTIFF
    "PPM": (rb"P[1-6f]\s", PpmImagePlugin.PpmImageFile),  # also PBM, PGM and PFM
}
"""By name, a pattern of a file's first bytes, and the function that reads its header."""

FORMATS = tuple(_FORMATS)
"""The formats that jobs decode."""
UPLOAD_FORMATS = ("PNG", "JPEG", "WEBP")
"""The formats that the service decodes."""
MAX_PIXELS = 89_478_485
"""The most pixels of an image that jobs decode: the size from which Pillow itself warns."""
MAX_FILE_BYTES = 2**28
"""The most bytes of an image file that jobs read."""
MAX_EXIF_BYTES = 2**22
"""The most bytes of EXIF data: Pillow makes Python numbers of a tag that it reads, in 23 bytes per byte."""

START_OF_SCAN = b"\xff\xda"
"""JPEG's marker. It cannot occur inside a scan, where 0 or a restart marker follows every 0xff."""
# Every scan of a progressive JPEG runs over all pixels, however short the scan is: 42 bytes can cost 16 ms
# for 25 megapixels. Encoders write about ten scans. The limit leaves room for thumbnails in the metadata and
# for the video behind a phone's photograph: 16 MB of video hold the marker's two bytes 256 times by chance.
# TurboJPEG's own limit, which Pillow does not set, is also 500.
_MAX_SCANS = 500
_EXIF, _SEGMENT_BYTES = b"Exif\0\0", 2**16
# Pillow reads the header of a PPM byte by byte, and copies up to a mebibyte per comment of a plain one.
_MAX_PPM_HEADER, _MAX_PPM_COMMENTS = 2**16, 1000
# A megabyte of XMP needs some 25,000 reads, and 256 MiB of pixels 4,096.
_MAX_GIF_READS = 2**16


class ImageError(ValueError):
    """Bytes that cannot be decoded as an image."""


class _FewReads(io.BytesIO):
    """The bytes of a GIF, which can be read only so often.

    Pillow reads each block of metadata in two calls and keeps the blocks of comments. It skips bytes between
    blocks in one call each.
    """

    _left = _MAX_GIF_READS

    def read(self, size: int | None = -1, /) -> bytes:
        if self._left == 0:
            raise ImageError(
                f"a GIF of more than {_MAX_GIF_READS // 2} blocks before its pixels, or with bytes between"
                f" blocks; allowed: {_MAX_GIF_READS // 2} blocks"
            )
        self._left -= 1
        return super().read(size)


def open_image(data: bytes, formats: tuple[str, ...]) -> ImageFile.ImageFile:
    """The image with its header read and its size known; no pixel is decoded.

    The caller checks the size. ``Image.open`` would import every plugin of Pillow, and count pixels by its
    own limit.

    Raises:
        ImageError: The bytes are in none of the ``formats``, or their metadata exceeds a limit.
        Exception: The header is damaged; Pillow's plugins may raise any exception.
    """
    _ignore_warnings_of_pillow()
    name = next((name for name in formats if re.match(_FORMATS[name][0], data)), None)
    if name is None:
        raise ImageError(f"not in an allowed format ({', '.join(formats)})")
    if name == "JPEG":
        _check_jpeg(data)
    if name == "PNG" and (excess := excess_of_chunks(data)):
        raise ImageError(f"a PNG with {excess}")
    if name == "TIFF" and (excess := excess_of_tags(data, MAX_PIXELS)):
        raise ImageError(f"a TIFF with {excess}")
    if name == "PPM":
        _check_ppm(data)
    return _FORMATS[name][1](_FewReads(data) if name == "GIF" else io.BytesIO(data))


@functools.cache
def _ignore_warnings_of_pillow() -> None:
    """Ignore warnings about sizes, which the caller checks, and damaged metadata; a user's own filters win.

    Python keeps the text of every warning that it shows, so a corpus of damaged files would fill the memory.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.", append=True)


def _check_jpeg(data: bytes) -> None:
    if excess := excess_of_header(data):
        raise ImageError(f"a JPEG with {excess}")
    if (scans := data.count(START_OF_SCAN)) > _MAX_SCANS:
        raise ImageError(f"a JPEG of {scans} scans; allowed: {_MAX_SCANS} scans")
    # Pillow joins the segments of EXIF data. Smaller files are not searched, because that takes time.
    most = MAX_EXIF_BYTES // _SEGMENT_BYTES
    if len(data) > MAX_EXIF_BYTES and (segments := data.count(_EXIF)) > most:
        raise ImageError(f"a JPEG of {segments} EXIF segments; allowed: {most} segments")


def _check_ppm(data: bytes) -> None:
    plain = data[:2] in (b"P1", b"P2", b"P3")
    if plain and (comments := data.count(b"#")) > _MAX_PPM_COMMENTS:
        raise ImageError(f"a plain PPM of {comments} comments; allowed: {_MAX_PPM_COMMENTS} comments")
    words = 3 if data[:2] in (b"P1", b"P4") else 4  # what it is, width, height, and mostly the value of white
    header = re.sub(rb"#[^\r\n]*[\r\n]?", b"", data[:_MAX_PPM_HEADER])
    if len(data) > _MAX_PPM_HEADER and len(header.split(None, words)) < words:
        raise ImageError(f"a PPM whose header exceeds {_MAX_PPM_HEADER} bytes; allowed: as many")
