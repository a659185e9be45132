"""Image sources as shards, and the keys of their rows.

A shard is a run of rows that one task reads; :mod:`lbae.io.sources.plan` divides a source into shards. A
row's key is unique by construction and known without reading the row.
"""

import itertools
import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, UInt8

from lbae.errors import UserError
from lbae.io.image_formats import MAX_FILE_BYTES
from lbae.io.sources import parquet, tar
from lbae.io.sources.columns import check_fit, with_columns
from lbae.io.sources.listing import bytes_or_none
from lbae.io.sources.stored_size import StoredSize, smallest
from lbae.io.storage.digests import digest_json
from lbae.io.storage.location import Location, resolve

_BATCH_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A row range of a Parquet file, samples of a tar, or a run of image files.

    Args:
        root: URI of the source's folder.
        rows: Number of rows.
        size: Approximate bytes of the rows.
        column_bytes: Of a Parquet file, approximate bytes of the rows without their images.
        files: The shard's files, relative to ``root``.
        columns: Columns beside key, bytes and path; the same in all shards of a source.
        index: Number of the shard in the source.
        start: Number of the shard's first row in the source.
        row_groups: Of a Parquet file, the row groups to read.
        group_rows: Of a Parquet file, how many of the shard's rows lie in each.
        skip: Of a Parquet file, rows to skip in those row groups.
        first_row: Of a Parquet file or a tar, number of the shard's first row in the file.
        samples: Of a tar, the samples to read.
        constants: Columns with one value for the whole shard, from its file's folders.
        levels: Of image files, the columns that their first folders give, such as ``label``.
        excluded_rows: One bit per row, least significant first: 1 for rows that are not read; empty if all
            are read. :meth:`reading` sets it.
        stored: Of a table by ``lbae ingest --size``, the size at which all images are stored.
        prefix: The beginning of all keys.
    """

    root: str
    rows: int
    size: int
    files: tuple[str, ...]
    columns: pa.Schema
    column_bytes: int = 0
    index: int = 0
    start: int = 0
    row_groups: tuple[int, ...] = ()
    group_rows: tuple[int, ...] = ()
    skip: int = 0
    first_row: int = 0
    samples: tuple[tar.TarSample, ...] = ()
    constants: Mapping[str, Any] = field(default_factory=dict)
    levels: tuple[str, ...] = ()
    excluded_rows: bytes = b""
    stored: StoredSize | None = None
    prefix: str = ""

    def __str__(self) -> str:
        first, last = posixpath.join(self.root, self.files[0]), self.files[-1]
        if len(self.files) > 1:
            return f"{first} to {last}"
        return f"{first}, rows {self.first_row} to {self.first_row + self.rows - 1}"

    @property
    def rows_to_read(self) -> int:
        """Number of rows that are read."""
        return self.rows - int.from_bytes(self.excluded_rows).bit_count()

    @property
    def wanted(self) -> Bool[np.ndarray, "K"]:
        """Whether each row is read."""
        if not self.excluded_rows:
            return np.ones(self.rows, dtype=np.bool_)
        bits = np.frombuffer(self.excluded_rows, dtype=np.uint8)
        return np.unpackbits(bits, count=self.rows, bitorder="little") == 0

    def reading(self, wanted: Bool[np.ndarray, "K"]) -> "Shard":
        """The shard, of which only the wanted rows are read."""
        bits = b"" if wanted.all() else np.packbits(~wanted, bitorder="little").tobytes()
        return replace(self, excluded_rows=bits)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A planned image source.

    ``fingerprint`` covers the names and sizes of the files and the ETags or times that the filesystem gives,
    not their bytes. It also covers the kind of the files if their suffixes do not show it, and names.
    ``skipped`` counts the files, and the members of tars, that are not read, by suffix.

    ``parts`` are the sources that are read as one, each with a ``name`` and without its shards; then ``uri``
    lists all their URIs.
    """

    uri: str
    fingerprint: str
    shards: tuple[Shard, ...]
    skipped: Counter[str] = field(default_factory=Counter)
    name: str = ""
    parts: tuple["Source", ...] = ()

    @property
    def uris(self) -> list[str]:
        """URIs of all sources that are read as one, or of this one."""
        return [part.uri for part in self.parts] or [self.uri]

    @property
    def fingerprints(self) -> set[str]:
        """The fingerprint, and those that each part has when it is read alone under its name."""
        return {self.fingerprint, *(fingerprint_of([part]) for part in self.parts)}

    @property
    def given(self) -> str | list[str]:
        """The data as ``plan`` takes it, with names, so that it gives the same keys again."""
        return [f"{part.name}={part.uri}" for part in self.parts] or self.uri

    @property
    def rows(self) -> int:
        """Number of images, decodable or not."""
        return sum(shard.rows for shard in self.shards)

    @property
    def folders(self) -> set[str]:
        """URIs of the folders that hold the files."""
        return {
            posixpath.dirname(posixpath.join(shard.root, name))
            for shard in self.shards
            for name in shard.files
        }

    @property
    def columns(self) -> list[str]:
        """Names of the rows' columns beside key, bytes and path."""
        return list(self.shards[0].columns.names)

    @property
    def skipped_result(self) -> dict[str, Any]:
        """The entry of a job's result that counts skipped files; empty if none were skipped."""
        return {"skipped": dict(sorted(self.skipped.items()))} if self.skipped else {}

    @property
    def stored(self) -> StoredSize | None:
        """The size at which ``lbae ingest --size`` stored the images; None for images as they came."""
        return smallest(shard.stored for shard in self.shards)

    def check_stored(self, side: int, channels: int) -> None:
        """Raise UserError if images were stored with fewer pixels or channels than are wanted."""
        if stored := self.stored:
            stored.check_holds(side, channels, self.uri)

    def check_output(self, *outs: str) -> None:
        """Raise UserError if an output is or lies in the source, where later jobs would read it as images."""
        for uri, out in itertools.product(self.uris, outs):
            if resolve(uri).holds(resolve(out)):
                raise UserError(
                    f"the output {out} lies in the data {uri}, and later jobs would read it as part of"
                    f" the data; choose another --out"
                )


def fingerprint_of(parts: Sequence[Source]) -> str:
    """Fingerprint of named sources that are read as one; it covers their names, because keys hold them."""
    return digest_json([[part.name, part.fingerprint] for part in parts])


def with_table_columns(shards: tuple[Shard, ...], columns: pa.Schema, out: str) -> tuple[Shard, ...]:
    """The shards with the columns of the table ``out`` to which their rows are appended.

    Raises:
        UserError: The shards' own columns do not fit the table's.
    """
    check_fit(shards[0].columns, columns, out)
    return tuple(replace(shard, columns=columns) for shard in shards)


def as_text(name: str) -> str:
    """A file's name as valid UTF-8; other bytes are written as ``\\xNN``."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def read_batches(shard: Shard) -> Iterator[pa.Table]:
    """Yield the rows of a shard in order, in batches of at most 256 because files may be large.

    Columns: ``key`` (string), ``bytes`` (binary, null if a file no longer exists or has more than 256 MiB),
    ``path`` (string), then ``shard.columns``. A table's own columns of these names, and ``latent``, are
    renamed to ``source_NAME``.
    """
    root, wanted = resolve(shard.root), shard.wanted
    keys, first = shard_keys(shard).filter(pa.array(wanted)), 0
    if shard.row_groups:
        wanted = np.concatenate([np.zeros(shard.skip, dtype=bool), wanted])
        for table in parquet.batches(root / shard.files[0], shard.row_groups, wanted, _BATCH_ROWS):
            yield _rows(shard, keys[first : first + len(table)], table)
            first += len(table)
        return
    left = np.flatnonzero(wanted).tolist()
    for first in range(0, len(left), _BATCH_ROWS):
        some = left[first : first + _BATCH_ROWS]
        table = (_samples if shard.samples else _files)(root, shard, some)
        yield _rows(shard, keys[first : first + len(some)], table)


def _rows(shard: Shard, keys: pa.Array, table: pa.Table) -> pa.Table:
    columns = with_columns(table, shard.columns, shard.constants, shard.files[0])
    return pa.table({"key": keys, "bytes": table["bytes"], "path": table["path"], **columns})


def _samples(root: Location, shard: Shard, rows: list[int]) -> pa.Table:
    some = tuple(shard.samples[row] for row in rows)
    labelled = "label" in shard.columns.names
    data, labels = tar.read(root / shard.files[0], some, labelled)
    paths = pa.array([sample.image and as_text(sample.image.name) for sample in some], pa.string())
    return pa.table(
        {"bytes": pa.array(data, pa.binary()), "path": paths, **({"label": labels} if labelled else {})}
    )


def _files(root: Location, shard: Shard, rows: list[int]) -> pa.Table:
    names = [shard.files[row] for row in rows]
    too_large = shard.size > MAX_FILE_BYTES  # then the shard is a single file
    data = pa.array([None if too_large else bytes_or_none(root / name) for name in names], pa.binary())
    paths = [as_text(name) for name in names]
    folders = [path.split("/")[:-1] for path in paths]
    columns = {
        column: pa.array([parts[level] if level < len(parts) else None for parts in folders], pa.string())
        for level, column in enumerate(shard.levels)
    }
    return pa.table({"bytes": data, "path": pa.array(paths, pa.string()), **columns})


def read_shard(shard: Shard) -> pa.Table:
    """All rows of a shard, as :func:`read_batches` yields them."""
    return pa.concat_tables(read_batches(shard))


def only(shards: tuple[Shard, ...], keys: pa.Array) -> tuple[Shard, ...]:
    """The shards with only the rows that have these keys; empty shards are dropped."""
    found = (shard.reading(pc.is_in(shard_keys(shard), value_set=keys).to_numpy(False)) for shard in shards)
    return tuple(shard for shard in found if shard.rows_to_read)


def leaving_out(shards: tuple[Shard, ...], rows: UInt8[np.ndarray, "B"]) -> tuple[Shard, ...]:
    """The shards of a source without the marked rows; empty shards are dropped.

    Args:
        shards: All shards of the source.
        rows: One bit per row of the source, least significant first: 1 for the rows to leave out.
    """
    rest = []
    for shard in shards:
        first, skip = divmod(shard.start, 8)
        marked = np.unpackbits(rows[first:], count=skip + shard.rows, bitorder="little")[skip:] == 1
        rest.append(shard.reading(~marked))
    return tuple(shard for shard in rest if shard.rows_to_read)


def shard_keys(shard: Shard) -> pa.Array:
    """The keys of all rows of a shard, without reading it."""
    if shard.samples:
        return pa.array(
            [as_text(f"{shard.prefix}{shard.files[0]}:{sample.name}") for sample in shard.samples]
        )
    if not shard.row_groups:
        return pa.array([as_text(f"{shard.prefix}{name}") for name in shard.files], pa.string())
    file = as_text(f"{shard.prefix}{shard.files[0]}")
    return pa.array([f"{file}:{row}" for row in range(shard.first_row, shard.first_row + shard.rows)])


def spread(shards: tuple[Shard, ...], rows: int) -> tuple[Shard, ...]:
    """Shards evenly spaced over a source, with about ``rows`` rows in all; all shards if they have fewer."""
    total = sum(shard.rows for shard in shards)
    count = max(1, len(shards) * rows // max(1, total))
    return tuple(shards[i * len(shards) // count] for i in range(count)) if count < len(shards) else shards
