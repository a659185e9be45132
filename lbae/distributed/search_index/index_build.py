"""Building a search index: centres from a sample, then one task per file of the index."""

import time
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
from lbae.errors import UserError
from lbae.io.artifacts.latent_table import RowGroup, packed_latents
from lbae.io.artifacts.latent_tables import LatentTables
from lbae.io.artifacts.output import Output
from lbae.io.artifacts.search_index import PLACE, SearchIndex, publish_index, write_centres, write_index_part
from lbae.report.progress import ProgressLine

# Larger files let a search skip more of their row groups; a task holds a file twice.
_FILE_ROWS, _FILE_BYTES = 2**20, 2**28
_QUERIES, _NEAREST = 100, 20


def build_index(table: LatentTables, output: Output, lists: int) -> dict[str, Any]:
    """Write and publish an index of ``lists`` lists, with its recall against comparing with all rows."""
    started = time.monotonic()
    found = scan(table, [])
    check_scan(table, found)
    drawn = draw_rows(table, found, ["key", "latent"], SAMPLE_PER_LIST * lists + _QUERIES)
    sample = packed_latents(drawn.rows)
    if len(sample) < lists:
        raise UserError(f"lists is {lists}; allowed: at most the {len(sample)} rows of {table}")
    centres = learn_centres(sample, lists)
    write_centres(output.uri, centres)
    rows = min(_FILE_ROWS, _FILE_BYTES // sample.shape[1])
    numbers = {part: number for number, part in enumerate(table.parts)}
    files = assign_row_groups(found.row_groups, -(-found.rows // rows))
    names = []
    with ProgressLine("index", found.rows, "rows") as line:
        calls = [(groups, number) for number, groups in enumerate(files)]
        for name, written in call_each(_write_part, (table, numbers, centres, output.uri), calls):
            names.append(name)
            line.update(line.done + written)
    index = SearchIndex(uri=output.uri, centres=centres, parts=tuple(names), recall={})
    index = replace(index, recall=measure_recall(index, sample[:_QUERIES]))
    return publish_index(output, table, index, {"seconds": round(time.monotonic() - started, 1)})


def measure_recall(index: SearchIndex, queries: UInt8[np.ndarray, "Q B"]) -> dict[str, float]:
    """The share of the 20 latents nearest to indexed ones, without themselves, by lists probed.

    A latent is found if its list is among those probed, so one search of all lists tells it for any number.
    """
    nearest = nearest_in_lists(index, queries, _NEAREST + 1, np.arange(index.lists))
    found = nearest.places[:, 1:, PLACE.index("list")]
    order = nearest_lists(index.centres, queries, index.lists)
    rank = np.argsort(order, axis=1)
    needed = np.take_along_axis(rank, found, axis=1) + 1
    if not needed.size:  # a single row has no others
        return {}
    powers = [2**power for power in range(index.lists.bit_length())]
    return {str(probes): round(float((needed <= probes).mean()), 4) for probes in powers}


def _write_part(
    table: LatentTables,
    numbers: dict[str, int],
    centres: UInt8[np.ndarray, "L B"],
    uri: str,
    groups: list[RowGroup],
    number: int,
) -> tuple[str, int]:
    """Write one file of the index; return its name and rows. ``numbers`` has those of the part files."""
    total = sum(group.rows for group in groups)
    packed = np.empty((total, centres.shape[1]), dtype=np.uint8)
    places = np.empty((total, len(PLACE)), dtype=np.int32)
    start = 0
    for group in groups:
        places[start : start + group.rows, :2] = numbers[group.part], group.index
        places[start : start + group.rows, 2] = np.arange(group.rows)
        start += group.rows
    start = 0
    for rows in table.batches(groups, ["latent"]):
        some = packed_latents(rows)
        packed[start : start + len(some)] = some
        places[start : start + len(some), 3] = nearest_lists(centres, some, 1)[:, 0]
        start += len(some)
    return write_index_part(uri, number, packed, places), total
