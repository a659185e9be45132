"""Parts of a table that are written but not yet published in a manifest."""

from collections.abc import Iterable
from dataclasses import dataclass

from lbae.io.storage.digests import RowDigest


@dataclass(frozen=True, kw_only=True)
class Part:
    """A written part.

    ``files``: names in the artifact. ``rows``: the part's rows. ``digest``: the ``RowDigest`` total of its
    rows. ``bad``: images in the quarantine. ``encoders``: for latents, the (device, precision) pairs that
    encoded them.
    """

    files: tuple[str, ...]
    rows: int
    digest: int
    bad: int = 0
    encoders: frozenset[tuple[str, ...]] = frozenset()


def total_digest(parts: Iterable[Part], before: int = 0) -> RowDigest:
    """The digest of all rows of some parts; ``before`` is the digest total of earlier rows."""
    return RowDigest(before + sum(part.digest for part in parts))
