"""The size at which ``lbae ingest --size`` stored a table's images, as each of its Parquet files says."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from lbae.errors import UserError
from lbae.io.storage.location import Location
from lbae.io.storage.stored_file import damaged

_KEY = b"lbae.image_shape"
_COLOURS = {1: "grey", 3: "RGB"}


@dataclass(frozen=True, kw_only=True)
class StoredSize:
    """Side in pixels and channels (1 or 3) of all images of a table; their originals may have had more."""

    side: int
    channels: int

    def __str__(self) -> str:
        return f"{self.side} x {self.side} pixels in {_COLOURS[self.channels]}"

    @classmethod
    def of_file(cls, location: Location, metadata: Mapping[bytes, bytes] | None) -> Self | None:
        """The size in a Parquet file's metadata; None if its images are as they came.

        Raises:
            UserError: The entry is damaged.
        """
        text = (metadata or {}).get(_KEY)
        if text is None:
            return None
        if not (found := re.fullmatch(rb"([1-9]\d{0,3}),([13])", text)):
            raise damaged(location, f"its {_KEY.decode()} is {text!r:.100}; allowed: SIDE,1 or SIDE,3")
        return cls(side=int(found[1]), channels=int(found[2]))

    @property
    def pixel_bytes(self) -> int:
        """Bytes of the pixels of an image."""
        return self.side**2 * self.channels

    @property
    def metadata(self) -> dict[bytes, bytes]:
        """The entry of a Parquet file's metadata."""
        return {_KEY: f"{self.side},{self.channels}".encode()}

    def check_holds(self, side: int, channels: int, uri: str) -> None:
        """Raise UserError if images of this size lack pixels or colours that are wanted of ``uri``."""
        if self.side < side or self.channels < channels:
            wanted = StoredSize(side=side, channels=channels)
            raise UserError(
                f"the images of {uri} were stored at {self} (lbae ingest --size), and {wanted} are wanted:"
                f" give the original images, or ingest them at --size {side}"
                + (" without --grey" if self.channels < channels else "")
            )


def smallest(sizes: Iterable[StoredSize | None]) -> StoredSize | None:
    """The least side and channels of several tables; None if all their images are as they came."""
    found = {size for size in sizes if size}
    if not found:
        return None
    return StoredSize(side=min(size.side for size in found), channels=min(size.channels for size in found))
