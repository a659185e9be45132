import asyncio
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest

from lbae.errors import LbaeError
from lbae.web.backend import codec_verbs
from lbae.web.backend.batching import Batcher


class Doubler:
    """Doubles rows, records the batches, and blocks in the first one until ``go_on`` is set."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.waiting: list[int] = []
        self.go_on = threading.Event()

    def heard(self, rows: int, waiting: int) -> None:
        self.waiting.append(waiting)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        self.batches.append(len(rows))
        if len(self.batches) == 1:
            assert self.go_on.wait(timeout=30)
        if (rows == 13).any():
            raise ArithmeticError("13")
        return 2 * rows


def batcher(run: Doubler) -> Batcher:
    return Batcher(run, 8, run.heard, ThreadPoolExecutor(1))


def rows(first: int, count: int) -> np.ndarray:
    return np.arange(first, first + count)[:, None]


async def started(batcher: Batcher, *requests: np.ndarray) -> list[asyncio.Task]:
    """One task per request; the batch of the first has begun, the others wait for it."""
    tasks = []
    for request in requests:
        tasks.append(asyncio.create_task(batcher(request)))
        while not batcher._run.batches:
            await asyncio.sleep(0.001)
    await asyncio.sleep(0)
    return tasks


def test_rows_that_wait_while_a_batch_runs_form_the_next_batch():
    async def run() -> None:
        run = Doubler()
        requests = [rows(100, 1), rows(200, 3), rows(300, 4), rows(400, 2), rows(500, 9)]
        tasks = await started(batcher(run), *requests)
        run.go_on.set()
        for task, request in zip(tasks, requests, strict=True):
            np.testing.assert_array_equal(await task, 2 * request)
        assert run.batches == [1, 7, 2, 8, 1]
        assert run.waiting == [0, 3, 2, 1, 0]

    asyncio.run(run())


def test_an_error_reaches_the_callers_of_its_batch_only():
    async def run() -> None:
        run = Doubler()
        tasks = await started(batcher(run), rows(0, 1), rows(13, 4), rows(1, 4), rows(5, 2))
        run.go_on.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(result, ArithmeticError) for result in done] == [False, True, True, False]

    asyncio.run(run())


def test_an_error_in_on_batch_reaches_the_callers():
    async def run() -> None:
        run = Doubler()
        run.go_on.set()
        double = Batcher(run, 8, lambda rows, waiting: 1 / 0, ThreadPoolExecutor(1))
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                await double(rows(0, 1))

    asyncio.run(run())


def test_the_rows_of_a_cancelled_caller_are_dropped():
    async def run() -> None:
        run = Doubler()
        first, gone, last = await started(batcher(run), rows(0, 1), rows(1, 5), rows(2, 2))
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        run.go_on.set()
        np.testing.assert_array_equal(await last, 2 * rows(2, 2))
        await first
        assert run.batches == [1, 2]

    asyncio.run(run())


def test_the_rows_of_a_cancelled_caller_are_freed_before_their_turn():
    async def run() -> None:
        run, large = Doubler(), np.zeros((20, 1))
        held = weakref.ref(large)
        first, gone = await started(batcher(run), rows(0, 1), large)
        del large
        assert held() is not None
        gone.cancel()
        with suppress(asyncio.CancelledError):
            await gone
        del gone
        await asyncio.sleep(0)  # asyncio lets go of the task and its traceback
        assert held() is None
        run.go_on.set()
        await first

    asyncio.run(run())


def test_the_health_check_fails_while_a_batch_is_stuck(bundle, monkeypatch):
    """Ray Serve calls this check of a replica, and replaces the replica when it fails."""
    monkeypatch.setattr(codec_verbs, "_STUCK_S", 0.05)

    async def run() -> None:
        backend, slow = codec_verbs.CodecVerbs(bundle.codec), Doubler()
        backend._decode = batcher(slow)
        backend.check()
        (task,) = await started(backend._decode, rows(0, 1))
        await asyncio.sleep(0.1)
        with pytest.raises(LbaeError, match=r"a batch of the codec has run for \d+ s"):
            backend.check()
        slow.go_on.set()
        await task
        backend.check()

    asyncio.run(run())
