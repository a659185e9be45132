"""Several latent tables read as one; a single table is the simplest case.

The tables have one model and hold different images. A column that a table lacks is null in its rows. A part
file is named by its URI, which says whose it is. Nothing depends on the order in which tables are given.
"""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8

from lbae.config import Precision
from lbae.errors import UserError
from lbae.io.artifacts.latent_table import KIND, LatentTable, RowGroup, open_latent_table
from lbae.io.artifacts.manifest import MANIFEST, read_manifest
from lbae.io.artifacts.output import UNFINISHED
from lbae.io.sources.columns import common_columns, with_columns
from lbae.io.storage.digests import digest
from lbae.io.storage.json_file import read_object
from lbae.io.storage.location import absolute, resolve

_NAMED = 5  # tables that a message lists

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LatentTables:
    """Finished latent tables, read as one table of all their rows.

    ``columns`` are those of all tables, in types that hold every table's values; ``schemas`` has each
    table's own by its URI. The methods raise what those of :class:`LatentTable` raise. They also raise
    UserError for a part with other columns than its table, and LbaeError for a value that the common type
    cannot hold.
    """

    tables: tuple[LatentTable, ...]
    columns: pa.Schema
    schemas: dict[str, pa.Schema]

    def __str__(self) -> str:
        more = len(self.uris) - _NAMED
        return ", ".join(self.uris[:_NAMED]) + (f" and {more} more" if more > 0 else "")

    @property
    def uris(self) -> list[str]:
        """URIs of the tables."""
        return [table.uri for table in self.tables]

    @property
    def rows(self) -> int:
        """Number of rows of all tables."""
        return sum(table.rows for table in self.tables)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of all rows: a single table's own, or one over those of all tables."""
        found = [table.manifest.fingerprint for table in self.tables]
        return found[0] if len(found) == 1 else digest(*(one.encode() for one in found))

    @property
    def rows_of_tables(self) -> dict[str, int]:
        """The rows of each table by its fingerprint, without tables that have none."""
        return {table.manifest.fingerprint: table.rows for table in self.tables if table.rows}

    @property
    def latent_dim(self) -> int:
        """Bits per latent, N."""
        return self.tables[0].latent_dim

    @property
    def model_fingerprint(self) -> str:
        """Fingerprint of the model that encoded the images."""
        return self.tables[0].model_fingerprint

    @property
    def precision(self) -> Precision:
        """Precision at which the images were encoded."""
        return self.tables[0].precision

    @property
    def parts(self) -> list[str]:
        """URIs of the part files with latents."""
        return [f"{table.uri}/{name}" for table in self.tables for name in table.parts]

    @property
    def model(self) -> str:
        """URI of the model, as the first table names it."""
        return self.tables[0].made_from("model")

    def holder(self, part: str) -> LatentTable:
        """The table that a part file belongs to."""
        return max(
            (one for one in self.tables if part.startswith(f"{one.uri}/")), key=lambda one: len(one.uri)
        )

    def read(self, part: str, columns: list[str]) -> pa.Table:
        """These columns of a part."""
        table, name = self._find(part)
        return self._as_one(table.uri, name, table.read(name, columns), columns)

    def row(self, part: str, group: int, row: int) -> dict[str, Any]:
        """One row, without its latent and its image."""
        table, name = self._find(part)
        return table.row(name, group, row)

    def latent(self, part: str, group: int, row: int) -> UInt8[np.ndarray, "B"]:
        """The packed latent of one row, which the part must have."""
        table, name = self._find(part)
        return table.latent(name, group, row)

    def footer(self, part: str, columns: Sequence[str]) -> tuple[list[RowGroup], str]:
        """The row groups of a part, each with the stored size of ``columns``, and the digest of its rows."""
        table, name = self._find(part)
        groups, found = table.footer(name, columns)
        return [replace(group, part=part) for group in groups], found

    def batches(self, groups: Sequence[RowGroup], columns: list[str]) -> Iterator[pa.Table]:
        """Yield the rows of some row groups, in batches of at most 2**15."""
        for part, run in itertools.groupby(groups, key=lambda group: group.part):
            table, name = self._find(part)
            for rows in table.batches([replace(group, part=name) for group in run], columns):
                yield self._as_one(table.uri, name, rows, columns)

    def copy_at(self, uri: str) -> LatentTable:
        """A table at ``uri`` to write rows of these tables to; it has no part files yet."""
        first = self.tables[0].manifest
        manifest = replace(first, rows=self.rows, files=(), fingerprint=self.fingerprint)
        return LatentTable(uri=uri, manifest=manifest)

    def _find(self, part: str) -> tuple[LatentTable, str]:
        table = self.holder(part)
        return table, part.removeprefix(f"{table.uri}/")

    def _as_one(self, uri: str, name: str, rows: pa.Table, columns: list[str]) -> pa.Table:
        """A part's rows with these columns, in the types of all tables; null where its table lacks one."""
        own = pa.schema([field for field in self.schemas[uri] if field.name in columns])
        if {*rows.schema} != {*own}:
            raise UserError(
                f"{uri}/{name} has the columns {_listed(rows.schema)}; the table's first part has"
                f" {_listed(own)}; encode the images again"
            )
        wanted = pa.schema([self.columns.field(name) for name in columns], rows.schema.metadata)
        if rows.schema.equals(wanted):
            return rows
        return pa.table(with_columns(rows, wanted, {}, f"{uri}/{name}"), schema=wanted)


def _listed(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema) or "none"


def open_latent_tables(latents: str | Sequence[str]) -> LatentTables:
    """The latent tables at these URIs, as one.

    Args:
        latents: URIs of finished latent tables, or patterns of them with ``*``, ``?`` or ``[...]``. A pattern
            stands for the latent tables among the folders that match it; a log line names the other folders.

    Raises:
        UserError: There is no table, a pattern matches none or an unfinished artifact, a table is given
            twice, or the tables differ in model, grid of latents or precision, or have columns that do not
            fit together.
    """
    given = [latents] if isinstance(latents, str) else list(latents)
    found = [open_latent_table(uri) for one in given for uri in _matches(one)]
    if not found:
        raise UserError("no latent table was given; give one or more")
    # Ordered by content, so that results do not depend on the order or the place of the tables.
    tables = tuple(sorted(found, key=lambda table: table.manifest.fingerprint))
    for one, other in itertools.pairwise(tables):
        if one.manifest.fingerprint == other.manifest.fingerprint:
            raise UserError(
                f"latent tables {one.uri} and {other.uri} hold the same rows (fingerprint"
                f" {one.manifest.fingerprint}); give each table once"
            )
    schemas = {table.uri: table.schema() for table in tables if table.parts}
    _check_equal(tables, "model", lambda table: table.model_fingerprint)
    _check_equal(tables, "number of bits", lambda table: table.latent_dim)
    _check_equal(tables, "precision", lambda table: table.precision)
    _check_equal(
        tuple(table for table in tables if table.parts),
        "grid of latents",
        lambda table: (
            (schemas[table.uri].metadata or {}).get(b"lbae.latent_grid", b"1").decode(errors="replace")
        ),
    )
    return LatentTables(
        tables=tables, columns=common_columns(schemas.items(), "latent tables"), schemas=schemas
    )


def _check_equal(tables: Sequence[LatentTable], what: str, of: Callable[[LatentTable], object]) -> None:
    """UserError if the tables differ in a value; it names two that do."""
    for table in tables[1:]:
        first, other = of(tables[0]), of(table)
        if first != other:
            raise UserError(
                f"latent tables {tables[0].uri} and {table.uri} differ in their {what}: {first!s:.100} and"
                f" {other!s:.100}; only tables that one model encoded alike can be read as one"
            )


def is_pattern(uri: str) -> bool:
    """Whether a URI holds wildcards, and nothing has it as its name."""
    return bool(set("*?[") & set(uri)) and not resolve(uri).exists()


def _matches(uri: str) -> list[str]:
    """The absolute URI, or those of the latent tables that match a pattern."""
    if not is_pattern(uri):
        return [absolute(uri)]
    place = resolve(uri)
    tables: list[str] = []
    others: list[str] = []
    for folder in place.matching_folders():
        if (folder / MANIFEST).exists():
            is_table = read_manifest(str(folder)).kind == KIND
        elif (folder / UNFINISHED).exists() and read_object(folder / UNFINISHED).get("kind", KIND) == KIND:
            is_table = bool(read_manifest(str(folder)))  # refuses an unfinished artifact
        else:
            is_table = False
        (tables if is_table else others).append(str(folder))
    if others:
        _logger.warning(f"{uri} also matches folders that are no latent tables: {', '.join(others)}")
    if not tables:
        raise UserError(f"no latent table matches {uri}; give the folders that `lbae encode` wrote")
    return tables
