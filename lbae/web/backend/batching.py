"""Batches the rows of several callers: while one batch runs, the next one fills.

A codec computes a whole batch even for a single row, so callers should share batches. Ray Serve's own
batching closes a batch after a fixed wait, even while the previous batch still runs. A long wait then delays
every caller, and a short one makes batches of a single caller (docs/measurements.md).
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor

import numpy as np


class Batcher:
    """Runs the rows of several callers as one batch, and returns to each caller the results of its own rows.

    Args:
        run: computes a batch, one result per row; called in ``executor`` with at most ``size`` rows.
        size: rows of a full batch.
        on_batch: called before every batch with its number of rows, and with the number of requests that
            wait behind it (a request of more than ``size`` rows counts once per ``size`` rows).
        executor: runs the batches, one at a time.
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
        """Seconds since the current batch began; 0 while none runs."""
        return 0 if self._since is None else time.monotonic() - self._since

    async def __call__(self, rows: np.ndarray) -> np.ndarray:
        """One result per row. An exception of ``run`` or ``on_batch`` reaches all callers of its batch."""
        results = []
        for start in range(0, len(rows), self._size):
            results.append(asyncio.get_running_loop().create_future())
            self._waiting.append((rows[start : start + self._size], results[-1]))
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._work())
        try:
            return np.concatenate(await asyncio.gather(*results))
        except asyncio.CancelledError:  # the rows would else be held until their turn
            self._waiting = deque(waiting for waiting in self._waiting if not waiting[1].done())
            raise

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
                    if not result.done():  # its caller may have been cancelled
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
        """The waiting rows that fit into a batch, in order, without those of cancelled callers."""
        batch, room = [], self._size
        while self._waiting and (self._waiting[0][1].done() or len(self._waiting[0][0]) <= room):
            rows, result = self._waiting.popleft()
            if not result.done():
                batch.append((rows, result))
                room -= len(rows)
        return batch
