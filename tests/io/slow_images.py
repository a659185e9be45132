"""Small image files that Pillow by itself decodes in seconds or minutes, or that flood stderr."""

import struct

from PIL import Image

from tests.io.hostile_images import gif, number, png, png_chunk, run_length_bmp, saved, tiff, zeros

_SHORT, _LONG = 3, 4  # types of TIFF tags


def shared_pieces(
    pixels: bytes, count: int, tags: dict[int, tuple[int, int, bytes]], kind: int = _LONG
) -> bytes:
    """A TIFF of compressed strips, or of tiles if ``tags`` gives their size, that are all the same bytes."""
    offsets, size = struct.pack("<I", 16) * count, struct.pack("<H" if kind == _SHORT else "<I", len(pixels))
    place, places = 16 + len(pixels), (324, 325) if 322 in tags else (273, 279)
    own = {
        places[0]: (_LONG, count, struct.pack("<I", place)),
        places[1]: (kind, count, struct.pack("<I", place + len(offsets))),
    }
    return tiff(pixels, tags | own, compression=8, behind=offsets + size * count)


def slow_files() -> dict[str, bytes]:
    """The files, by the error that refuses them."""
    tile = {256: number(640), 257: number(1), 322: number(16), 323: number(2**20)}
    jpeg = saved(Image.new("L", (5000, 4990)), "JPEG", progressive=True)
    last = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    scans = 41 - jpeg.count(b"\xff\xda")
    pixels = png_chunk(b"IDAT", b"")
    row, small = zeros(16 * 4) + bytes(1000), {322: number(16), 323: number(16)}
    return {
        "5000 x 4990 pixels in 41 scans; allowed: 40 scans": jpeg[:-2] + last * scans + jpeg[-2:],
        "no pixels, or more than 4096 bytes between two segments": jpeg[:20] + bytes(5000) + jpeg[20:],
        "a PNG with more than 131072 chunks": png(9, 9, pixels * 2**17),
        "a TIFF with 671088640 pixels in all tiles": shared_pieces(zeros(2**26), 40, tile),
        f"a TIFF with strips or tiles of {16 * len(row)} bytes": shared_pieces(row, 16, {278: number(1)}),
        f"a TIFF with strips or tiles of {4 * (1000 + len(zeros(1024)))} bytes": shared_pieces(
            zeros(1024) + bytes(1000), 4, {256: number(64), **small}, _SHORT
        ),
        "a TIFF with the compression of faxes": saved(Image.new("1", (9, 9)), "TIFF", compression="group4"),
        "a GIF of more than 32768 blocks": gif(b"!\1" + b"\1a" * 2**15 + b"\0"),
        "or with bytes between blocks": gif(b"x" * 2**16),
        "2001 x 2000 pixels and 41080 bytes in a slow coding": run_length_bmp(2001, 2000),
        "40 x 40 pixels and 8389848 bytes": run_length_bmp(40, 40, b"\0\0" * 2**22),
        "2 x 1 pixels and 8388622": b"P2 2 1 255\n1 2" + b" " * 2**23,
        "3000 x 3000 pixels and": b"P5 3000 3000 254\n" + bytes(9),
        "a plain PPM of 1001 comments": b"P2 3 2 1000\n" + b"#\n" * 1001 + b"1 2 3 400 500 1000\n",
        "a PPM whose header exceeds 65536 bytes": b"P5 1 1\n" + b"#\n" * 2**15 + b"255\n0",
    }
