"""Sharing the rows of a source between workers, so that together they read it about once.

The shards are dealt to the workers like cards, and ``workers - 1`` of them are cut so that all shares have
equally many rows. A share depends on the source and the number of workers alone.

Every worker gets at least four runs of rows from all over the source, because sources are often sorted, and
BatchNorm statistics of few classes would not fit the others. If there are fewer shards, each is cut into
several runs, between row groups if it has enough. A row group is read from its start by every worker that
has rows of it, so a source of fewer than four row groups per worker is read more than once.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from lbae.io.sources.source import Shard

RUNS = 4  # least number of runs per worker


def deal(shards: Sequence[Shard], worker: int, workers: int) -> tuple[Shard, ...]:
    """The rows of one worker, out of shards without excluded rows.

    Shares differ by at most one row. Slices of one row group become one shard, so that it is read once.
    """
    whole = list(_whole(shards))
    pieces = -(-RUNS * workers // len(whole)) if workers > 1 else 1
    runs = [
        (index, range(start, end))
        for index, shard in enumerate(whole)
        for start, end in itertools.pairwise(_cuts(shard, pieces))
    ]
    dealt = itertools.chain.from_iterable(runs[hand::workers] for hand in range(workers))
    total = sum(shard.rows for shard in whole)
    first, last = total * worker // workers, total * (worker + 1) // workers
    kept, before = defaultdict[int, set[int]](set), 0
    for index, run in dealt:
        kept[index].update(run[max(0, first - before) : max(0, last - before)])
        before += len(run)
    return tuple(_only(whole[index], rows) for index, rows in sorted(kept.items()) if rows)


def _whole(shards: Sequence[Shard]) -> Iterator[Shard]:
    """The shards, with adjacent slices of a row group joined."""
    joined: Shard | None = None
    for shard in shards:
        if joined and _continues(joined, shard):
            rows = joined.rows + shard.rows
            joined = replace(joined, rows=rows, size=joined.size + shard.size, group_rows=(rows,))
            continue
        if joined:
            yield joined
        joined = shard
    if joined:
        yield joined


def _continues(shard: Shard, other: Shard) -> bool:
    same = len(shard.row_groups) == 1 and (shard.files, shard.row_groups) == (other.files, other.row_groups)
    return same and shard.start + shard.rows == other.start


def _cuts(shard: Shard, pieces: int) -> list[int]:
    """Where ``pieces`` runs of a shard begin, and the last one ends."""
    if len(shard.group_rows) < pieces:
        return [shard.rows * piece // pieces for piece in range(pieces + 1)]
    starts = list(itertools.accumulate(shard.group_rows, initial=0))
    return [starts[len(shard.group_rows) * piece // pieces] for piece in range(pieces + 1)]


def _only(shard: Shard, rows: set[int]) -> Shard:
    wanted = np.zeros(shard.rows, dtype=np.bool_)
    wanted[list(rows)] = True
    return shard.reading(wanted)
