"""Parts of a table that are written but not yet published in a manifest."""

from collections.abc import Iterable
from dataclasses import dataclass

from lbae.errors import LbaeError, UserError
from lbae.io.storage.digests import RowDigest
from lbae.io.storage.location import Location
from lbae.io.storage.parquet_file import open_parquet


@dataclass(frozen=True, kw_only=True)
class Part:
    """A written part.

    ``files``: names in the artifact. ``rows``: the part's rows. ``digest``: the ``RowDigest`` total of its
    rows. ``bad``: images in the quarantine. ``encoder``: for latents, the device and the precision that
    encoded them.
    """

    files: tuple[str, ...]
    rows: int
    digest: int
    bad: int = 0
    encoder: tuple[str, ...] = ()

    def checked(self, file: Location, wanted: int) -> "Part":
        """This part, whose rows are in ``file``; LbaeError unless all ``wanted`` rows are there or bad."""
        if self.rows + self.bad != wanted:
            raise LbaeError(
                f"{file} and its quarantine hold {self.rows + self.bad} rows, but {wanted} were planned from"
                f" the source; run the job again with --overwrite"
            )
        return self


def finished_footer(location: Location) -> tuple[int, dict[bytes, bytes]] | None:
    """Rows and metadata of a part's file that an earlier process has written; None if there is none.

    The file is opened to find out, because a network mount may still list a file that is gone.
    """
    try:
        with open_parquet(location) as parquet:
            return parquet.metadata.num_rows, parquet.schema_arrow.metadata
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def total_digest(parts: Iterable[Part], before: int = 0) -> RowDigest:
    """The digest of all rows of some parts; ``before`` is the digest total of earlier rows."""
    return RowDigest(before + sum(part.digest for part in parts))
