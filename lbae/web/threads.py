"""Thread pools that read and write images, so that a replica's event loop stays free.

A request can be cancelled, by its client or by its time limit; a running thread cannot. These are executors
because an executor counts such a thread until it ends, and starts nothing for a cancelled request. anyio's
limiter would start the next thread beside the abandoned one.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

from lbae.web.memory import MemoryShare

# Two pools, so that samples do not wait for uploads. Few readers, because the largest image takes 225 MB
# while it is decoded. What writers take, their requests have claimed (memory.py).
_READERS = ThreadPoolExecutor(2, thread_name_prefix="reader")
_WRITERS = ThreadPoolExecutor(4, thread_name_prefix="writer")

Field = str | bytes
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


async def in_reader(work: Callable[[list[Field], *Ts], T], fields: Sequence[Field], *rest: *Ts) -> T:
    """Run ``work(fields, ...)`` in a reader thread and return its result.

    ``work`` gets a list that is emptied when the request is cancelled, so that it stops at the next field.
    """
    left = list(fields)
    try:
        return await asyncio.get_running_loop().run_in_executor(_READERS, work, left, *rest)
    finally:
        left.clear()  # a cancelled call stays queued until a thread is free, and would keep its images


async def in_writer(share: MemoryShare, work: Callable[[*Ts], T], *arguments: *Ts) -> T:
    """Run ``work(...)`` in a writer thread, which keeps the request's memory, and return its result."""
    share.keep()
    running = _WRITERS.submit(work, *arguments)
    running.add_done_callback(lambda _: share.let_go())
    return await asyncio.wrap_future(running)
