"""Rows whose digest another row has: hash buckets of digests, and the join inside a bucket.

A digest has 128 bits, so two different keys or images never have the same one in practice.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int64, Shaped, UInt8

KNOWN = -1
"""The row number of every row that is known from elsewhere. It comes before all rows of the source."""
MOST_BUCKETS = 2**12


@dataclass(frozen=True, kw_only=True)
class RowDigests:
    """Digests (dtype S16) of some rows, and the numbers of these rows in their source, or :data:`KNOWN`."""

    digests: Shaped[np.ndarray, "K"]
    rows: Int64[np.ndarray, "K"]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, which: np.ndarray) -> "RowDigests":
        """Some of the rows: a mask, or their places."""
        return RowDigests(digests=self.digests[which], rows=self.rows[which])

    def buckets(self, count: int) -> Iterator["RowDigests"]:
        """Yield the rows of each bucket. The first 16 bits of a digest choose one of up to 2**12 buckets."""
        first = np.ascontiguousarray(self.digests).view(">u2")[::8].astype(np.uint32)
        bucket = (first * count >> 16).astype(np.uint16)
        order = np.argsort(bucket, kind="stable")
        edges = np.searchsorted(bucket[order], np.arange(count + 1))
        for start, end in itertools.pairwise(edges):
            yield self.take(order[start:end])

    def first_rows(self) -> Int64[np.ndarray, "K"]:
        """The lowest row number with the digest of each row."""
        digests = np.ascontiguousarray(self.digests)
        values = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(16), len(digests), [None, pa.py_buffer(digests)]
        ).dictionary_encode()
        codes = values.indices.to_numpy()
        first = np.full(len(values.dictionary), np.iinfo(np.int64).max)
        np.minimum.at(first, codes, self.rows)
        return first[codes]

    def left_out(self, distinct: bool) -> Bool[np.ndarray, "K"]:
        """Whether each row has a known digest or, if ``distinct``, that of an earlier row."""
        first = self.first_rows()
        return (self.rows > first) & ((first == KNOWN) | distinct)


def concatenated(parts: Sequence[RowDigests]) -> RowDigests:
    """All rows of some parts, of which there must be one."""
    return RowDigests(
        digests=np.concatenate([part.digests for part in parts]),
        rows=np.concatenate([part.rows for part in parts]),
    )


def mark(bits: UInt8[np.ndarray, "B"], rows: Int64[np.ndarray, "K"]) -> None:
    """Set the bits of these rows, least significant bit first."""
    np.bitwise_or.at(bits, rows >> 3, np.left_shift(1, rows & 7).astype(np.uint8))
