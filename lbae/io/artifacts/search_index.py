"""The search index of latent tables: their latents once more, sorted into inverted lists.

Layout of the artifact, format version 1 (see docs/reference/formats.md):

- ``data/part-*.parquet``: latent, list and place of every row, sorted by list
- ``centres.safetensors``: the packed centre of each list
- ``manifest.json``
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.numpy
from jaxtyping import Int32, Int64, UInt8

from lbae.core.latents.packing import packed_width
from lbae.errors import UserError
from lbae.io.artifacts.latent_table import packed_latents
from lbae.io.artifacts.latent_tables import LatentTables
from lbae.io.artifacts.manifest import MANIFEST, entry, read_manifest
from lbae.io.artifacts.output import Output
from lbae.io.artifacts.tensors import read_tensors
from lbae.io.storage.digests import digest
from lbae.io.storage.hub import fetched, pinned
from lbae.io.storage.location import absolute, resolve
from lbae.io.storage.parquet_file import open_parquet, write_parquet
from lbae.io.storage.stored_file import damaged

KIND = "search index"
ROW_BITS = 32
"""A place is the number of a part file among those of the tables, and in this many low bits a row of it."""
_CENTRES = "centres.safetensors"
# A search reads row groups that hold a wanted list: 180 kB each at N = 600.
_GROUP_ROWS = 2**11


@dataclass(frozen=True, kw_only=True)
class IndexedLatents:
    """Packed latents, the list that each is in, and its place in the tables."""

    packed: UInt8[np.ndarray, "K B"]
    lists: Int32[np.ndarray, "K"]
    places: Int64[np.ndarray, "K"]


@dataclass(frozen=True, kw_only=True)
class SearchIndex:
    """A search index of ``rows`` latents: the packed centres of its lists, and the names of its files.

    ``recall`` has the share of the 20 nearest latents that a search finds, by the number of lists probed.
    """

    uri: str
    rows: int
    centres: UInt8[np.ndarray, "L B"]
    parts: tuple[str, ...]
    recall: Mapping[int, float]

    @property
    def lists(self) -> int:
        """The number of lists."""
        return len(self.centres)

    def expected_recall(self, probes: int) -> float | None:
        """The recall of as many lists, or of the next fewer that were measured; None if none were."""
        return self.recall.get(max((count for count in self.recall if count <= probes), default=0))

    def rows_read(self, probes: int) -> int:
        """About how many rows a search reads, of whole row groups."""
        return min(self.rows, probes * (self.rows // self.lists + 2 * _GROUP_ROWS * len(self.parts)))

    def rows_of(self, part: str) -> int:
        """The rows of a file, by its footer."""
        with open_parquet(fetched(self.uri, [part]) / part) as file:
            return int(file.metadata.num_rows)

    def latents(self, part: str, wanted: Int64[np.ndarray, "W"]) -> Iterator[IndexedLatents]:
        """Yield the latents of the ``wanted`` lists, in order of their numbers, in a file.

        Raises:
            UserError: The file is missing or damaged, or has other columns or lists.
        """
        location = fetched(self.uri, [part]) / part
        with open_parquet(location) as file:
            if file.schema_arrow.remove_metadata() != (needed := _schema(self.centres.shape[1])):
                raise damaged(
                    location, f"its columns are {_listed(file.schema_arrow)}; needed: {_listed(needed)}"
                )
            numbers = file.schema_arrow.get_field_index("list")
            ranges = [
                file.metadata.row_group(i).column(numbers).statistics for i in range(file.num_row_groups)
            ]
            if not all(found and found.has_min_max for found in ranges):
                raise damaged(location, "it does not say which lists its row groups hold")
            if not all(found.min >= 0 and found.max < self.lists for found in ranges):
                raise damaged(location, f"it has lists other than 0 to {self.lists - 1}")
            first = np.searchsorted(wanted, [found.min for found in ranges])
            last = np.searchsorted(wanted, [found.max for found in ranges], side="right")
            for batch in file.iter_batches(row_groups=np.flatnonzero(first < last).tolist()):
                rows = pa.Table.from_batches([batch])
                if any(column.null_count for column in rows.columns):
                    raise damaged(location, "it has rows without a value")
                rows = rows.filter(pa.array(np.isin(rows["list"].to_numpy(), wanted)))
                yield IndexedLatents(
                    packed=packed_latents(rows),
                    lists=rows["list"].to_numpy(),
                    places=rows["place"].to_numpy(),
                )


def _schema(width: int) -> pa.Schema:
    return pa.schema([("latent", pa.binary(width)), ("list", pa.int32()), ("place", pa.int64())])


def write_index_part(uri: str, number: int, latents: IndexedLatents) -> str:
    """Write one file of an index, sorted by list, and return its name."""
    order, width = np.argsort(latents.lists, kind="stable"), latents.packed.shape[1]
    packed = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(width), len(order), [None, pa.py_buffer(latents.packed[order])]
    )
    columns = [packed, pa.array(latents.lists[order]), pa.array(latents.places[order])]
    name = f"data/part-{number:05d}.parquet"
    groups = [min(_GROUP_ROWS, len(order) - start) for start in range(0, len(order), _GROUP_ROWS)]
    write_parquet(uri, name, pa.table(columns, schema=_schema(width)), row_groups=groups)
    return name


def write_centres(uri: str, centres: UInt8[np.ndarray, "L B"]) -> None:
    """Write the centres of an unfinished index."""
    (resolve(uri) / _CENTRES).write_bytes(safetensors.numpy.save({"centres": centres}))


def publish_index(
    output: Output, table: LatentTables, index: SearchIndex, result: dict[str, Any]
) -> dict[str, Any]:
    """Publish an index whose files are written."""
    return output.publish(
        fingerprint=digest(index.centres.tobytes(), table.fingerprint.encode()),
        rows=table.rows,
        files=[*index.parts, _CENTRES],
        result={
            "latent_dim": table.latent_dim,
            "recall": {str(probes): share for probes, share in index.recall.items()},
            **result,
        },
    )


def open_search_index(uri: str, table: LatentTables) -> SearchIndex:
    """The finished index at a URI; raises UserError if it is one of other rows than the tables'."""
    uri = pinned(absolute(uri))
    manifest = read_manifest(uri, KIND)
    indexed = entry(uri, manifest, "parents", "latents", str)
    if indexed != table.fingerprint:
        raise UserError(
            f"search index {uri} was made of latents with the fingerprint {indexed:.100}; those of {table}"
            f" have {table.fingerprint}: give the tables that were indexed, all of them, or index these"
        )
    lists = entry(uri, manifest, "config", "lists", int)
    location = fetched(uri, [_CENTRES]) / _CENTRES
    shape = (lists, packed_width(table.latent_dim))
    index = SearchIndex(
        uri=uri,
        rows=manifest.rows,
        centres=read_tensors(location, {"centres": ("uint8", shape)})["centres"],
        parts=tuple(name for name in manifest.files if name.startswith("data/")),
        recall=_recall(uri, entry(uri, manifest, "result", "recall", dict)),
    )
    if not lists or index.rows != table.rows:
        raise damaged(
            resolve(uri) / MANIFEST,
            f"it has {lists} lists and {index.rows} rows; the tables have {table.rows} rows",
        )
    return index


def _recall(uri: str, found: dict[str, Any]) -> dict[int, float]:
    """The recall by lists probed, from a manifest."""
    shares = [share for share in found.values() if isinstance(share, float) and 0 <= share <= 1]
    if len(shares) < len(found) or not all(re.fullmatch(r"[0-9]{1,9}", name) for name in found):
        raise damaged(
            resolve(uri) / MANIFEST, f"result.recall is {found!s:.200}; allowed: shares by numbers of lists"
        )
    return {int(name): share for name, share in found.items()}


def _listed(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)
