"""Parts of a table: Parquet files that were written and await the manifest."""

from collections.abc import Iterable
from dataclasses import dataclass

from lbae.io.storage.digests import RowDigest


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part that was written.

    ``files`` are its names in the artifact, ``digest`` is the total of its rows' digests, ``bad`` counts the
    images set aside. Latents also say by which (device, precision) pairs they were encoded.
    """

    files: tuple[str, ...]
    rows: int
    digest: int
    bad: int = 0
    encoders: frozenset[tuple[str, ...]] = frozenset()


def total_digest(parts: Iterable[Part], before: int = 0) -> RowDigest:
    """The digest of all rows of some parts, and of those counted ``before``."""
    return RowDigest(before + sum(part.digest for part in parts))
