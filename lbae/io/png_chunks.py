"""The number of a PNG's chunks, counted before Pillow keeps them in a list."""

# Pillow keeps chunks that it does not know. Encoders write some dozens.
_MAX_OTHERS = 4096
# Pillow reads each chunk in about 3 microseconds. The largest picture needs some 30,000 of 8 KiB.
_MAX_CHUNKS = 2**17
_PIXELS = {b"IDAT", b"fdAT", b"fcTL"}  # the last two occur once or more per frame of an animation


def excess_of_chunks(data: bytes) -> str | None:
    """Which limit a PNG's chunks exceed, in words; None if they exceed none.

    The limits: 4,096 chunks without pixels, 131,072 chunks in all.
    """
    at, chunks, others = 8, 0, 0
    while at < len(data) and (kind := data[at + 4 : at + 8]) != b"IEND":
        chunks += 1
        others += kind not in _PIXELS
        if others > _MAX_OTHERS:
            return f"more than {_MAX_OTHERS} chunks without pixels; allowed: {_MAX_OTHERS} chunks"
        if chunks > _MAX_CHUNKS:
            return f"more than {_MAX_CHUNKS} chunks; allowed: {_MAX_CHUNKS} chunks"
        at += 12 + int.from_bytes(data[at : at + 4])
    return None
