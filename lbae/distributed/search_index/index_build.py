"""Building a search index: centres from a sample, then one task per file of the index."""

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import UInt8

from lbae.core.latents.inverted_lists import SAMPLE_PER_LIST, learn_centres, nearest_lists
from lbae.distributed.cluster.calls import call_each
from lbae.distributed.latent_table.drawn_rows import draw_rows
from lbae.distributed.latent_table.row_group_assignment import assign_row_groups
from lbae.distributed.latent_table.table_scan import check_scan, scan
from lbae.distributed.search_index.index_search import nearest_in_lists
from lbae.io.artifacts.latent_table import RowGroup, packed_latents
from lbae.io.artifacts.latent_tables import LatentTables
from lbae.io.artifacts.output import Output
from lbae.io.artifacts.search_index import (
    ROW_BITS,
    IndexedLatents,
    SearchIndex,
    publish_index,
    write_centres,
    write_index_part,
)
from lbae.io.storage.location import absolute
from lbae.report.progress import ProgressLine

_logger = logging.getLogger(__name__)

# Larger files let a search skip more of their row groups; a task holds a file twice.
_FILE_ROWS, _FILE_BYTES = 2**22, 2**28
_QUERIES, _NEAREST = 100, 20


def build_index(
    table: LatentTables, output: Output, lists: int, check_lock: Callable[[], None]
) -> dict[str, Any]:
    """Write and publish an index of ``lists`` lists, with its recall against comparing with all rows.

    An artifact that it replaces is only removed once the tables have been checked.
    """
    started, uri = time.monotonic(), absolute(output.uri)
    found = scan(table, [])
    check_scan(table, found)
    drawn = draw_rows(table, found, ["key", "latent"], SAMPLE_PER_LIST * lists + _QUERIES)
    sample = packed_latents(drawn.rows)
    _logger.info(f"learning the centres of {lists} lists from {len(sample)} latents")
    centres = learn_centres(sample, lists)
    output.begin()
    write_centres(uri, centres)
    rows = min(_FILE_ROWS, _FILE_BYTES // sample.shape[1])
    files = assign_row_groups(found.row_groups, -(-found.rows // rows))
    places = _first_places(table, found.row_groups)
    calls = [(groups, [places[group] for group in groups], number) for number, groups in enumerate(files)]
    names = []
    with ProgressLine("index", found.rows, "rows") as line:
        for name, written in call_each(_write_part, (table, centres, uri), calls):
            names.append(name)
            line.update(line.done + written)
            check_lock()
    index = SearchIndex(uri=uri, rows=found.rows, centres=centres, parts=tuple(names), recall={})
    index = replace(index, recall=measure_recall(index, sample[:_QUERIES]))
    check_lock()
    return publish_index(output, table, index, {"seconds": round(time.monotonic() - started, 1)})


def measure_recall(index: SearchIndex, queries: UInt8[np.ndarray, "Q B"]) -> dict[int, float]:
    """The share of the 20 latents nearest to indexed ones, without themselves, by lists probed.

    A latent is found if its list is among those probed, so one search of all lists tells it for any number.
    """
    found = nearest_in_lists(index, queries, _NEAREST + 1, np.arange(index.lists))["list"][:, 1:]
    order = nearest_lists(index.centres, queries, index.lists)
    rank = np.argsort(order, axis=1)
    needed = np.take_along_axis(rank, found, axis=1) + 1
    if not needed.size:  # a single row has no others
        return {}
    measured = [*(2**power for power in range((index.lists - 1).bit_length())), index.lists]
    return {probes: round(float((needed <= probes).mean()), 4) for probes in measured}


def _write_part(
    table: LatentTables,
    centres: UInt8[np.ndarray, "L B"],
    uri: str,
    groups: list[RowGroup],
    starts: list[int],
    number: int,
) -> tuple[str, int]:
    """Write one file of the index; return its name and rows. ``starts`` has the groups' first places."""
    packed = np.concatenate([packed_latents(rows) for rows in table.batches(groups, ["latent"])])
    places = [start + np.arange(group.rows) for group, start in zip(groups, starts, strict=True)]
    latents = IndexedLatents(
        packed=packed,
        lists=nearest_lists(centres, packed, 1)[:, 0].astype(np.int32),
        places=np.concatenate(places),
    )
    return write_index_part(uri, number, latents), len(packed)


def _first_places(table: LatentTables, groups: list[RowGroup]) -> dict[RowGroup, int]:
    """The place of the first row of each row group."""
    numbers = {part: number for number, part in enumerate(table.parts)}
    places, before = {}, Counter[str]()
    for group in groups:
        places[group] = numbers[group.part] << ROW_BITS | before[group.part]
        before[group.part] += group.rows
    return places
