"""What the tags of a TIFF take in memory and time, read before a decoder sees them.

libtiff copies the values of every tag, also where they overlap in the file. It allocates whole tiles, however
small the picture is. It unpacks the bytes of every strip or tile, also where several share them, and prints a
line on stderr per bad row of a fax. Pillow makes a Python number of each value, and a list of all strips.
"""

import itertools
import math
import struct
from typing import Literal

# A strip takes 250 bytes in Pillow's list. A colour map for 16 bits has 196,608 numbers.
_MAX_NUMBERS = 2**19
_MAX_TAGS = 4096  # per directory, as in libtiff
_SIDES, _TILE_SIDES = (256, 257), (322, 323)
_COMPRESSION, _UNCOMPRESSED, _FAXES = 259, 1, (2, 3, 4, 32771)
_PIECE_BYTES = (279, 325)  # the compressed bytes of each strip and of each tile
_DIRECTORIES = (34665, 34853, 40965)  # EXIF, GPS and interoperability: Pillow reads their tags too
# Bytes per value of each type of tag. Values of one byte stay bytes in Pillow.
_WIDTHS = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_FORMATS = {1: "B", 2: "H", 4: "I", 8: "Q"}  # of struct, by bytes per value

_Tag = tuple[int, int, int, bytes]
"""A tag's number, how many values it has, bytes per value, and the values or their offset."""


def excess_of_tags(data: bytes, max_pixels: int) -> str | None:
    """Which limit the tags of a TIFF's first picture exceed, in words; None if they exceed none.

    The limits: values that fit into the file without overlap, 524,288 numbers, 4,096 tags per directory,
    tiles of ``max_pixels`` pixels, and of twice as many in all. Compressed strips or tiles have no more bytes
    in all than the file, and are no faxes.
    """
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    big = data[2] == 43
    tags = _tags(data, int.from_bytes(data[8:16] if big else data[4:8], order), order, big)
    single: dict[int, int] = {}
    for tag, count, width, value in tags:
        if tag in (*_SIDES, *_TILE_SIDES, *_DIRECTORIES, _COMPRESSION):
            if tag in single or count != 1 or width > len(value):
                return f"tag {tag} is not one number"
            single[tag] = int.from_bytes(value[:width], order)
    if single.get(_COMPRESSION) in _FAXES:
        return "the compression of faxes (CCITT); allowed: any other, such as deflate"
    directories = [tags, *(_tags(data, single[tag], order, big) for tag in _DIRECTORIES if tag in single)]
    if max(map(len, directories)) > _MAX_TAGS:
        return f"a directory of more than {_MAX_TAGS} tags"
    if (pixels := math.prod(single.get(tag, 1) for tag in _TILE_SIDES)) > max_pixels:
        return f"tiles of {pixels} pixels; allowed: {max_pixels} pixels"
    tiles = [
        (single.get(side, 1), single.get(tile, 0)) for side, tile in zip(_SIDES, _TILE_SIDES, strict=True)
    ]
    if (pixels := math.prod(-(-side // max(1, tile)) * tile for side, tile in tiles)) > 2 * max_pixels:
        return f"{pixels} pixels in all tiles; allowed: {2 * max_pixels} pixels"
    every = list(itertools.chain(*directories))
    if (size := sum(count * width for _, count, width, value in every if count * width > len(value))) > len(
        data
    ):
        return f"tags of {size} bytes; allowed: {len(data)} bytes, as the file"
    if (
        numbers := sum(count for tag, count, width, _ in every if width > 1 or tag in _PIECE_BYTES)
    ) > _MAX_NUMBERS:
        return f"tags of {numbers} numbers; allowed: {_MAX_NUMBERS} numbers"
    # Uncompressed pixels are read by their offsets alone, and some writers leave these counts wrong.
    if single.get(_COMPRESSION, _UNCOMPRESSED) != _UNCOMPRESSED:
        for piece in _PIECE_BYTES:
            size = sum(sum(_values(data, found, order)) for found in tags if found[0] == piece)
            if size > len(data):
                return f"strips or tiles of {size} bytes; allowed: {len(data)} bytes, as the file"
    return None


def _values(data: bytes, tag: _Tag, order: Literal["little", "big"]) -> tuple[int, ...]:
    """The values of a tag as unsigned integers, as far as the file holds them."""
    _, count, width, value = tag
    start, size = int.from_bytes(value, order), count * width
    content = value[:size] if size <= len(value) else data[start : start + size]
    count = len(content) // width
    return struct.unpack_from(f"{'<' if order == 'little' else '>'}{count}{_FORMATS[width]}", content)


def _tags(data: bytes, start: int, order: str, big: bool) -> list[_Tag]:
    """The tags of the directory at ``start``, as far as the file holds them; at most one over the limit."""
    mark = "<" if order == "little" else ">"
    head, entry = (
        struct.Struct(mark + ("Q" if big else "H")),
        struct.Struct(mark + ("HHQ8s" if big else "HHI4s")),
    )
    first = start + head.size
    if first > len(data):
        return []
    count = min(*head.unpack_from(data, start), (len(data) - first) // entry.size, _MAX_TAGS + 1)
    found = entry.iter_unpack(data[first : first + count * entry.size])
    return [(tag, values, _WIDTHS[kind], value) for tag, kind, values, value in found if kind in _WIDTHS]
