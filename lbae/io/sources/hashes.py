"""Hashes of keys and of image bytes. Those of keys say which rows are held out, and which a sample draws."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float64, Shaped, UInt8, UInt64

HELD_OUT_OF = 10  # one row of ten is held out for validation


def image_digests(rows: pa.Table) -> Shaped[np.ndarray, "R"]:
    """Half of the SHA-256 of every image's bytes, or of its key if it has no bytes, dtype S16."""
    pairs = zip(rows["key"].to_pylist(), rows["bytes"].to_pylist(), strict=True)
    digests = [hashlib.sha256(data or key.encode()).digest()[:16] for key, data in pairs]
    return np.array(digests, dtype="S16")


def file_digests(rows: pa.Table) -> UInt64[np.ndarray, "R"]:
    """64 bits of :func:`image_digests` for every image that has bytes.

    Enough to count equal images, but too few to drop an image as a duplicate.
    """
    found = image_digests(rows.filter(pc.greater(pc.binary_length(rows["bytes"]), 0)))
    return found.view(">u8")[::2].astype(np.uint64)


def key_digests(keys: pa.Array | pa.ChunkedArray) -> Shaped[np.ndarray, "K"]:
    """Half of the SHA-256 of every key, dtype S16."""
    return np.ascontiguousarray(_key_digests(keys)[:, :16]).view("S16")[:, 0]


def key_fractions(keys: pa.Array | pa.ChunkedArray) -> Float64[np.ndarray, "K"]:
    """A fixed, uniformly distributed number in [0, 1) per key; a share p of the rows has numbers below p."""
    return _key_digests(keys)[:, :8].copy().view(">u8")[:, 0] / 2**64


def held_out(keys: pa.Array | pa.ChunkedArray) -> Bool[np.ndarray, "K"]:
    """Whether each row is held out for validation by every stage: sha256(key) mod 10 = 0."""
    digests = _key_digests(keys)
    # The digest is a number in base 256, and every power of 256 above the zeroth is 6 mod 10.
    remainder = (6 * digests[:, :-1].sum(axis=1, dtype=np.int64) + digests[:, -1]) % HELD_OUT_OF
    return remainder == 0


def _key_digests(keys: pa.Array | pa.ChunkedArray) -> UInt8[np.ndarray, "K 32"]:
    sha256 = hashlib.sha256
    data = b"".join([sha256(key).digest() for key in keys.cast(pa.binary()).to_pylist()])
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, 32)
