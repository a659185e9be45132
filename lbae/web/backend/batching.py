"""Rows of several callers as one batch: while one batch runs, the next one fills.

A codec computes a whole batch even for a single row. Ray Serve's own batching closes a batch after a fixed
wait, whether the one before has ended or not, so it either makes every caller wait or runs batches of one
caller (docs/results.md).
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor

import numpy as np


class Batcher:
    """Runs the rows of several callers together and gives each the results of its own.

    Args:
        run: called in ``executor`` with at most ``size`` rows.
        size: rows of a full batch.
        on_batch: called with every batch's rows and the number of requests that wait behind it.
        executor: where batches run.
    """

    def __init__(
        self,
        run: Callable[[np.ndarray], np.ndarray],
        size: int,
        on_batch: Callable[[int, int], None],
        executor: Executor,
    ) -> None:
        self._run, self._size, self._on_batch, self._executor = run, size, on_batch, executor
        self._waiting: deque[tuple[np.ndarray, asyncio.Future[np.ndarray]]] = deque()
        self._runner: asyncio.Task[None] | None = None
        self._since: float | None = None

    @property
    def running_s(self) -> float:
        """Seconds that the current batch has run; 0 without one."""
        return 0 if self._since is None else time.monotonic() - self._since

    async def __call__(self, rows: np.ndarray) -> np.ndarray:
        """The result of every row. An exception of ``run`` or ``on_batch`` reaches all callers of a batch."""
        results = []
        for start in range(0, len(rows), self._size):
            results.append(asyncio.get_running_loop().create_future())
            self._waiting.append((rows[start : start + self._size], results[-1]))
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._work())
        return np.concatenate(await asyncio.gather(*results))

    async def _work(self) -> None:
        while batch := self._next():
            rows, results = zip(*batch, strict=True)
            loop = asyncio.get_running_loop()
            self._since = time.monotonic()
            try:
                self._on_batch(sum(map(len, rows)), len(self._waiting))
                found = await loop.run_in_executor(self._executor, self._run, np.concatenate(rows))
            except Exception as error:
                for result in results:
                    if not result.done():  # its caller may have gone away
                        result.set_exception(error)
                continue
            finally:
                self._since = None
            for result, part in zip(
                results, np.split(found, np.cumsum([len(r) for r in rows])[:-1]), strict=True
            ):
                if not result.done():
                    result.set_result(part)

    def _next(self) -> list[tuple[np.ndarray, "asyncio.Future[np.ndarray]"]]:
        """The waiting rows that fit, in their order, without those of callers that have gone."""
        batch, room = [], self._size
        while self._waiting and (self._waiting[0][1].done() or len(self._waiting[0][0]) <= room):
            rows, result = self._waiting.popleft()
            if not result.done():
                batch.append((rows, result))
                room -= len(rows)
        return batch
