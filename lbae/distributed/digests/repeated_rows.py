"""Find the rows of a source whose digest a known or an earlier row has, in Ray tasks per hash bucket.

The driver holds one bit per row of the source and at most a few million digests. It hands them on, bucket by
bucket, to Ray's object store, which spills to disk; a task joins each bucket. The result depends neither on
the order in which digests are added nor on the number of buckets.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import ray
from jaxtyping import Int64, Shaped, UInt8

from lbae.distributed.cluster.resources import cluster_cpus
from lbae.distributed.cluster.tasks import map_tasks, results, run_task
from lbae.io.storage.row_digests import KNOWN, MOST_BUCKETS, RowDigests, concatenated, mark
from lbae.report.progress import ProgressLine

T = TypeVar("T")

HELD_ROWS = 2**21
"""Digests that the driver holds at a time, of 24 bytes each. As many rows are joined without Ray."""
_BUCKET_ROWS = 2**22


class RepeatedRows:
    """Collects the digests of rows, and finds those rows of a source that are to be left out.

    Args:
        rows: Number of rows of the source.
        known: Expected number of known rows; it only decides whether Ray is needed, and the buckets.
        distinct: Leave out all but the first of equal rows, too.
    """

    def __init__(self, rows: int, *, known: int = 0, distinct: bool = False) -> None:
        self.needs_ray = rows + known > HELD_ROWS
        self._distinct = distinct
        self._marked = np.zeros(-(-rows // 8), dtype=np.uint8)
        self._held: list[RowDigests] = []
        self._held_rows = 0
        buckets = min(MOST_BUCKETS, -(-(rows + known) // _BUCKET_ROWS))
        self._pieces: list[list[ray.ObjectRef]] = [[] for _ in range(buckets)]

    def add(self, digests: Shaped[np.ndarray, "K"], first: int) -> None:
        """Add the digests (dtype S16) of rows of the source numbered from ``first``, or of ``KNOWN`` rows."""
        for start in range(0, len(digests), HELD_ROWS):
            some = digests[start : start + HELD_ROWS]
            rows = np.full(len(some), KNOWN) if first == KNOWN else first + start + np.arange(len(some))
            self._held.append(RowDigests(digests=some, rows=rows))
            self._held_rows += len(some)
            if self.needs_ray and self._held_rows >= HELD_ROWS:
                self._hand_on()

    def add_each(
        self,
        tasks: Sequence[T],
        digests_of: Callable[[T], tuple[Shaped[np.ndarray, "K"], int]],
        doing: Callable[[T], str],
        line: ProgressLine,
        check_lock: Callable[[], None],
        in_tasks: bool,
    ) -> None:
        """Add what ``digests_of`` returns for each task.

        Args:
            tasks: Any values that can be pickled.
            digests_of: Returns digests and ``first``, as :meth:`add` takes them.
            doing: Describes a task in errors, such as ``reading keys of a.parquet``.
            line: Counts the digests.
            check_lock: Called per task.
            in_tasks: In Ray tasks, else in this process.
        """

        def look(row: dict[str, Any]) -> dict[str, Any]:
            return run_task(row, digests_of, doing)

        for digests, first in results(map_tasks(tasks, look)) if in_tasks else map(digests_of, tasks):
            self.add(digests, first)
            line.update(line.done + len(digests))
            check_lock()

    def left_out(self, check_lock: Callable[[], None]) -> UInt8[np.ndarray, "B"]:
        """One bit per row of the source, least significant first: 1 for the rows to leave out.

        Called once, after all rows are added.
        """
        if self.needs_ray:
            self._hand_on()
            self._join_buckets(check_lock)
        elif self._held:
            mark(self._marked, _left_out(self._distinct, *self._held))
        return self._marked

    def _hand_on(self) -> None:
        """Put the digests that are held into their buckets."""
        if not self._held:
            return
        held = concatenated(self._held)
        self._held, self._held_rows = [], 0
        if self._distinct:
            # Else a source of equal images would be a single bucket.
            again = held.left_out(distinct=True)
            mark(self._marked, held.rows[again])
            held = held.take(~again)
        for pieces, piece in zip(self._pieces, held.buckets(len(self._pieces)), strict=True):
            if len(piece):
                pieces.append(ray.put(piece))

    def _join_buckets(self, check_lock: Callable[[], None]) -> None:
        """Mark the rows that are left out of each bucket. Pieces are freed as soon as they are joined."""
        waiting, running = deque(pieces for pieces in self._pieces if pieces), list[ray.ObjectRef]()
        self._pieces = []
        with ProgressLine("join", len(waiting), "buckets") as line:
            while waiting or running:
                while waiting and len(running) < 2 * cluster_cpus():
                    running.append(_join_bucket.remote(self._distinct, *waiting.popleft()))
                (done,), running = ray.wait(running)
                mark(self._marked, ray.get(done))
                line.update(line.done + 1)
                check_lock()


def _left_out(distinct: bool, *pieces: RowDigests) -> Int64[np.ndarray, "K"]:
    """The numbers of the rows of some pieces that are left out."""
    rows = concatenated(pieces)
    return rows.rows[rows.left_out(distinct)]


_join_bucket = ray.remote(num_cpus=1)(_left_out)
