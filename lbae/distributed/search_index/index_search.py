"""The latents of a search index nearest to given ones: each task searches one file, the driver merges."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, Int64, UInt8

from lbae.core.latents.hamming import nearest
from lbae.core.latents.inverted_lists import nearest_lists
from lbae.distributed.cluster.calls import call_each
from lbae.distributed.latent_table.neighbours import Hit
from lbae.io.artifacts.latent_tables import LatentTables
from lbae.io.artifacts.search_index import PLACE, SearchIndex
from lbae.io.storage.location import resolve
from lbae.io.storage.stored_file import damaged


@dataclass(frozen=True, kw_only=True)
class NearestIndexed:
    """Indexed latents nearest to each query, nearest first: their distances in bits, and their places."""

    distances: Int32[np.ndarray, "Q C"]
    places: Int32[np.ndarray, "Q C 4"]

    def first(self, k: int) -> "NearestIndexed":
        """The ``k`` nearest of them, in order."""
        order = np.argsort(self.distances, axis=1, kind="stable")[:, :k]
        return NearestIndexed(
            distances=np.take_along_axis(self.distances, order, axis=1),
            places=np.take_along_axis(self.places, order[:, :, None], axis=1),
        )

    def beside(self, other: "NearestIndexed") -> "NearestIndexed":
        """Both together, in no order."""
        return NearestIndexed(
            distances=np.concatenate([self.distances, other.distances], axis=1),
            places=np.concatenate([self.places, other.places], axis=1),
        )


def hits_by_index(
    table: LatentTables, index: SearchIndex, probes: int, query: UInt8[np.ndarray, "B"], k: int
) -> list[Hit]:
    """The ``k`` latents nearest to a packed query, of those in the ``probes`` lists nearest to it.

    Fewer if the lists hold fewer. Of latents equally far as the last, any may be among them.
    """
    lists = nearest_lists(index.centres, query[None], probes)
    found, parts = nearest_in_lists(index, query[None], k, lists[0]), table.parts
    hits = []
    for distance, (part, group, row, _) in zip(found.distances[0], found.places[0].tolist(), strict=True):
        if not 0 <= part < len(parts):
            raise damaged(resolve(index.uri), f"it names part {part} of {len(parts)}")
        hits.append(Hit(distance=int(distance), part=parts[part], row_group=group, row=row))
    return hits


def nearest_in_lists(
    index: SearchIndex, packed: UInt8[np.ndarray, "Q B"], k: int, lists: Int64[np.ndarray, "W"]
) -> NearestIndexed:
    """The ``k`` latents nearest to each packed query, of those in some lists."""
    calls = [(part,) for part in index.parts]
    found = _nothing(len(packed))
    for some in call_each(_nearest, (index, packed, k, np.sort(lists)), calls):
        found = found.beside(some).first(k)
    return found


def _nothing(queries: int) -> NearestIndexed:
    return NearestIndexed(
        distances=np.empty((queries, 0), np.int32), places=np.empty((queries, 0, len(PLACE)), np.int32)
    )


def _nearest(
    index: SearchIndex,
    packed: UInt8[np.ndarray, "Q B"],
    k: int,
    lists: Int64[np.ndarray, "W"],
    part: str,
) -> NearestIndexed:
    found = _nothing(len(packed))
    for latents, places in index.batches(part, lists):
        distances, rows = nearest(packed, latents, k)
        found = found.beside(NearestIndexed(distances=distances, places=places[rows])).first(k)
    return found
