"""The latents of a search index nearest to given ones: each task searches one file, the driver merges."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from jaxtyping import Int64, Shaped, UInt8

from lbae.core.latents.hamming import nearest
from lbae.core.latents.inverted_lists import nearest_lists
from lbae.distributed.cluster.calls import call_each
from lbae.distributed.latent_table.neighbours import Hit
from lbae.errors import UserError
from lbae.io.artifacts.latent_table import RowGroup
from lbae.io.artifacts.latent_tables import LatentTables
from lbae.io.artifacts.search_index import ROW_BITS, SearchIndex
from lbae.io.storage.location import resolve
from lbae.io.storage.stored_file import damaged

_FOUND = np.dtype([("distance", np.int32), ("list", np.int32), ("place", np.int64)])


def hits_by_index(
    table: LatentTables, index: SearchIndex, probes: int, query: UInt8[np.ndarray, "B"], k: int
) -> list[Hit]:
    """The ``k`` latents nearest to a packed query, of those in the ``probes`` lists nearest to it.

    Fewer if the lists hold fewer. Of latents as far as the last, any may be among them. UserError if the
    index does not fit the tables: each hit is compared with the latent at its place.
    """
    lists = nearest_lists(index.centres, query[None], probes)[0]
    found, parts = nearest_in_lists(index, query[None], k, lists)[0], table.parts
    groups_of = cache(lambda part: table.footer(part, [])[0])
    hits = []
    for distance, place in zip(found["distance"].tolist(), found["place"].tolist(), strict=True):
        number, row = place >> ROW_BITS, place & (2**ROW_BITS - 1)
        part = parts[number] if 0 <= number < len(parts) else ""
        group, row = _in_row_group(groups_of(part), row) if part else (None, row)
        if group is None or distance != int(np.bitwise_count(table.latent(part, group, row) ^ query).sum()):
            raise UserError(
                f"search index {index.uri} does not fit {table}: it has another latent for place {place}; the"
                f" rows were written anew in another order, or the index is damaged: write it again, with"
                f" --overwrite"
            )
        hits.append(Hit(distance=distance, part=part, row_group=group, row=row))
    return hits


def _in_row_group(groups: Sequence[RowGroup], row: int) -> tuple[int | None, int]:
    """The row group that holds a row of a part, and the row in it; None if there is none."""
    for group in groups:
        if row < group.rows:
            return group.index, row
        row -= group.rows
    return None, row


def nearest_in_lists(
    index: SearchIndex, packed: UInt8[np.ndarray, "Q B"], k: int, lists: Int64[np.ndarray, "W"]
) -> Shaped[np.ndarray, "Q k"]:
    """The ``k`` latents nearest to each packed query, of those in some lists; fewer if they hold fewer.

    Each is a record of its ``distance`` in bits, its ``list`` and its ``place``, nearest first. UserError if
    the files do not hold the index's rows.
    """
    found, rows = np.empty((len(packed), 0), dtype=_FOUND), 0
    calls = [(part,) for part in index.parts]
    for some, held in call_each(_nearest_in_part, (index, packed, k, np.sort(lists)), calls):
        found, rows = _first(np.concatenate([found, some], axis=1), k), rows + held
    if rows != index.rows:
        raise damaged(resolve(index.uri), f"its files hold {rows} rows, its manifest says {index.rows}")
    return found


def _nearest_in_part(
    index: SearchIndex, packed: UInt8[np.ndarray, "Q B"], k: int, lists: Int64[np.ndarray, "W"], part: str
) -> tuple[Shaped[np.ndarray, "Q k"], int]:
    """The nearest in a file, and the rows of the whole file."""
    found = np.empty((len(packed), 0), dtype=_FOUND)
    for latents in index.latents(part, lists):
        distances, rows = nearest(packed, latents.packed, k)
        some = np.empty(distances.shape, dtype=_FOUND)
        some["distance"], some["list"], some["place"] = distances, latents.lists[rows], latents.places[rows]
        found = _first(np.concatenate([found, some], axis=1), k)
    return found, index.rows_of(part)


def _first(found: Shaped[np.ndarray, "Q C"], k: int) -> Shaped[np.ndarray, "Q k"]:
    order = np.argsort(found["distance"], axis=1, kind="stable")[:, :k]
    return np.take_along_axis(found, order, axis=1)
