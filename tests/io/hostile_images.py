"""Image files of every allowed format: valid, mutated, or small and made to take much memory.

``python -m tests.io.hostile_images FOLDER`` writes the latter, for :mod:`tests.io.decode_folder`.
"""

import io
import random
import struct
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

_NUMBERS = (0, 1, 255, 256, 16_383, 65_535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
_TYPES = {1: "B", 3: "H", 4: "I", 5: "II"}  # of TIFF tags
SIDE = 2000  # of the pictures that take memory: 4 megapixels


def saved(image: Image.Image, kind: str, *frames: Image.Image, **options) -> bytes:
    """The image as a file, with further frames behind it."""
    buffer = io.BytesIO()
    options |= {"save_all": True, "append_images": frames} if frames else {}
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned() -> Image.Exif:
    """EXIF data of a picture that lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def zeros(count: int) -> bytes:
    """Compressed zeros, in no more time than a mebibyte of them takes."""
    block = zlib.compressobj(9)
    first = block.compress(bytes(2**20)) + block.flush(zlib.Z_FULL_FLUSH)
    head, body = first[:2], first[2:]
    rest = zlib.compressobj(9, wbits=-15)
    end = rest.compress(bytes(count % 2**20)) + rest.flush()
    return head + body * (count // 2**20) + end + struct.pack(">I", (count % 65_521) << 16 | 1)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """A black RGBA PNG."""
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    pixels = png_chunk(b"IDAT", zeros(height * (1 + 4 * width)))
    parts = (png_chunk(b"IHDR", header), *chunks, pixels, png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def directory(tags: dict[int, tuple[int, int, bytes]], last: bytes = b"") -> bytes:
    """A TIFF directory, with type, count and value or offset per tag, and the values of the last tag."""
    entries = b"".join(struct.pack("<HHI4s", tag, *tags[tag]) for tag in sorted(tags))
    return struct.pack("<H", len(tags)) + entries + bytes(4) + last


def number(value: int) -> tuple[int, int, bytes]:
    return 4, 1, struct.pack("<I", value)


def tiff(
    pixels: bytes,
    tags: dict[int, tuple[int, int, bytes]],
    side: int = 16,
    compression: int = 1,
    behind: bytes = b"",
) -> bytes:
    """An RGBA TIFF: header, bits per sample (at 8), ``pixels`` (at 16), ``behind``, directory."""
    body = struct.pack("<4H", 8, 8, 8, 8) + pixels + behind
    own = {256: side, 257: side, 259: compression, 262: 2, 277: 4, 284: 1, 338: 2}
    placed = {273: 16, 278: side, 279: len(pixels)}
    every = {tag: number(value) for tag, value in (own | placed).items()}
    every |= {258: (3, 4, struct.pack("<I", 8))} | tags
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory(every)


def gif(before: bytes) -> bytes:
    """A grey GIF with bytes before its picture."""
    data = saved(Image.new("L", (9, 9)), "GIF")
    at = data.index(b",")
    return data[:at] + before + data[at:]


def run_length_bmp(width: int, height: int, before: bytes = b"") -> bytes:
    """A BMP of 8 bits in run-length coding, with further codes before its rows."""
    palette = b"".join(bytes([255 - level, level, 7, 0]) for level in range(256))
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 0, 0, 0, 256, 0)
    row = b"\xfa\x01" * (width // 250) + bytes([width % 250, 2, 0, 0])
    head = b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + len(palette)) + info + palette
    return head + before + row * height + b"\0\1"


def exif_of_numbers(tag: int, count: int) -> bytes:
    """EXIF data whose only tag has ``count`` ratios."""
    ratios = struct.pack("<II", 7, 3) * count
    return b"II*\0" + struct.pack("<I", 8) + directory({tag: (5, count, struct.pack("<I", 26))}, ratios)


def valid_files() -> dict[str, list[bytes]]:
    """Small files by the name of their format."""
    rgba = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 4), dtype=np.uint8))
    rgb, grey, ink, palette = (rgba.convert(mode) for mode in ("RGB", "L", "CMYK", "P"))
    deep = Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60) * 27)
    real = Image.fromarray(np.linspace(0, 1, 2400, dtype=np.float32).reshape(40, 60))
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "b" * 99, zip=True)
    text.add_itxt("c", "d" * 99, zip=True)
    codecs = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "lzma", "zstd")
    tile = {322: number(32), 323: number(32), 324: number(16), 325: number(32 * 32 * 4)}
    return {
        "PNG": [
            saved(rgba, "PNG", exif=turned(), pnginfo=text, icc_profile=bytes(200)),
            saved(palette, "PNG", transparency=bytes(range(256))),
            saved(deep, "PNG"),
            saved(rgb, "PNG", rgb.rotate(90), rgb.rotate(180)),
        ],
        "JPEG": [
            saved(rgb, "JPEG", exif=turned(), icc_profile=bytes(70_000)),
            saved(ink, "JPEG", progressive=True),
            saved(rgb, "MPO", rgb, rgb),
        ],
        "WEBP": [
            saved(rgba, "WEBP", exif=turned(), lossless=True),
            saved(rgb, "WEBP"),
            saved(rgba, "WEBP", rgba.rotate(90)),
        ],
        "GIF": [saved(palette, "GIF", palette.rotate(90), transparency=3, disposal=2), saved(grey, "GIF")],
        "BMP": [saved(rgb, "BMP"), saved(palette, "BMP"), run_length_bmp(40, 40)],
        "TIFF": [
            saved(rgba, "TIFF", rgb, exif=turned()),
            saved(deep, "TIFF", compression="tiff_adobe_deflate"),
            saved(real, "TIFF"),
            saved(grey.convert("1"), "TIFF", compression="packbits"),
            saved(ink, "TIFF", big_tiff=True),
            tiff(bytes(32 * 32 * 4), tile),
            *(saved(rgb, "TIFF", compression=codec) for codec in codecs),
        ],
        "PPM": [
            *(saved(image, "PPM") for image in (rgb, grey, deep, grey.convert("1"))),
            b"P2 3 2 1000 # grey\n1 2 3 400 500 1000\n",
            b"P3 1 1 255\n1 2 3\n",
            b"Pf 2 1 -1.0\n" + struct.pack("<2f", 0, 1),
        ],
    }


def mutated(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """The file cut, or with other bits, numbers or pieces; most PNGs get right checksums again."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(result))
        match rng.randrange(6):
            case 0:
                del result[max(at, 1) :]
            case 1:
                for place in rng.choices(range(len(result)), k=rng.choice((1, 8, 64))):
                    result[place] ^= 1 << rng.randrange(8)
            case (
                2 | 3
            ):  # dimensions, counts and offsets are near the start, or in a TIFF's directory at the end
                at = rng.choice(
                    (at, rng.randrange(min(len(result), 60)), max(0, len(result) - 200) + at % 200)
                )
                kind = rng.choice(("<H", ">H", "<I", ">I"))
                value = rng.choice(_NUMBERS) % 256 ** struct.calcsize(kind)
                result[at : at + struct.calcsize(kind)] = struct.pack(kind, value)
            case 4:
                other = rng.choice(others)
                start = rng.randrange(len(other))
                result[at:at] = other[start : start + rng.choice((4, 40, 4000))]
            case 5:
                del result[max(at, 1) : at + rng.choice((4, 40, 400))]
    return _with_checksums(result) if rng.random() < 0.8 else bytes(result)


def _with_checksums(data: bytearray) -> bytes:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        at = 8
        while at + 12 <= len(data):
            end = at + 8 + int.from_bytes(data[at : at + 4])
            data[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
            at = end + 4
    return bytes(data)


def large_pictures() -> dict[str, bytes]:
    """Pictures of 4 megapixels, in the modes and codings that take the most memory per pixel."""
    clear = Image.new("RGBA", (SIDE, SIDE), (1, 2, 3, 9))
    real = Image.fromarray(np.zeros((SIDE, SIDE), dtype=np.float32))
    ink = Image.new("CMYK", (SIDE, SIDE))
    return {
        "turned.png": saved(clear, "PNG", exif=turned(), compress_level=1),
        "turned.webp": saved(clear, "WEBP", exif=turned(), lossless=True, method=0),
        "turned.tif": saved(clear, "TIFF", exif=turned(), compression="tiff_adobe_deflate"),
        "progressive.jpg": saved(ink, "JPEG", progressive=True, subsampling=0, exif=turned()),
        "transparent.gif": saved(Image.new("P", (SIDE, SIDE)), "GIF", transparency=0),
        "real.tif": saved(real, "TIFF"),
        "real.pfm": saved(real, "PPM"),
        "run-length.bmp": run_length_bmp(SIDE, SIDE),
    }


def png_of_texts() -> bytes:
    """A PNG with the most text that Pillow keeps, in characters of four bytes."""
    text = zlib.compress(("\U0001f600" + "a" * (2**20 - 4)).encode())
    return png(9, 9, *(png_chunk(b"iTXt", b"%d\0\1\0\0\0" % index + text) for index in range(63)))


def widest_webp() -> bytes:
    """The largest picture that jobs decode, of transparent pixels of one colour: 40 bytes."""
    return saved(Image.new("RGBA", (16_383, 5461), (1, 2, 3, 9)), "WEBP", lossless=True, method=0)


def bombs() -> dict[str, bytes]:
    """Files that Pillow by itself decodes in hundreds of megabytes, by the error that refuses them."""
    ratios = exif_of_numbers(0x0112, 2**21)
    segments = [ratios[at : at + 65_000] for at in range(0, len(ratios), 65_000)]
    jpeg = saved(Image.new("L", (9, 9)), "JPEG")
    exif = b"".join(b"\xff\xe1" + struct.pack(">H", 8 + len(part)) + b"Exif\0\0" + part for part in segments)
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 65_535, 8, 9, 9, 1) + bytes(65_527)
    inner = png(9000, 9000)
    ico = struct.pack("<HHHBBBBHHII", 0, 1, 1, 0, 0, 0, 0, 1, 32, len(inner), 22) + inner
    tile = zeros(2**29)
    strips = struct.pack("<H", 16) * 2 * 10**6
    overlap = {40_000 + tag: (1, 10**6, struct.pack("<I", 16)) for tag in range(500)}
    return {
        "a JPEG of 259 EXIF segments": jpeg[:2] + exif + jpeg[2:],
        "EXIF data of": png(9, 9, png_chunk(b"eXIf", ratios)),
        "not in an allowed format": ico,
        "a TIFF with tiles of 134217728 pixels": tiff(
            tile,
            {322: number(2**14), 323: number(2**13), 324: number(16), 325: number(len(tile))},
            compression=8,
        ),
        "a TIFF with tags of 500000008 bytes": tiff(zeros(1024), overlap, compression=8, behind=bytes(10**6)),
        "a TIFF with tags of 2000013 numbers": tiff(
            bytes(1024), {273: (3, 2 * 10**6, struct.pack("<I", 1040)), 278: number(1)}, behind=strips
        ),
        "a TIFF with tags of 2097167 numbers": tiff(bytes(1024), {34_665: number(1048)}, behind=ratios),
        "sides of 65535 pixels": png(1, 2**24),
        "a JPEG with more than 2000 segments": jpeg[:2] + b"\xff\xe5\0\2" * 2**20 + jpeg[2:],
        "a JPEG with 51 segments with its size": jpeg[:2] + frame * 50 + jpeg[2:],
        "a GIF of more than 32768 blocks": gif(b"!\xfe" + b"\2aa" * 2**21 + b"\0"),
        "a PNG with more than 4096 chunks without pixels": png(9, 9, png_chunk(b"prVt", b"") * 2**20),
    }


if __name__ == "__main__":
    every = large_pictures() | bombs() | {"texts.png": png_of_texts(), "widest.webp": widest_webp()}
    for name, data in every.items():
        Path(sys.argv[1], name).write_bytes(data)
