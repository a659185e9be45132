"""The threads of a replica that read and write images, so that its event loop stays free.

A request can be cancelled, by its client or by its time limit; its thread cannot. An executor counts the
thread until it ends and starts nothing for a cancelled request, where anyio's limiter would start the next
thread beside it.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

# An image of the largest size takes 300 MB while it is read, and so does an answer. Readers and writers have
# threads of their own: samples do not wait for uploads.
_READERS = ThreadPoolExecutor(4, thread_name_prefix="reader")
_WRITERS = ThreadPoolExecutor(4, thread_name_prefix="writer")

Field = str | bytes
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


async def in_reader(work: Callable[[list[Field], *Ts], T], fields: Sequence[Field], *rest: *Ts) -> T:
    """The result of ``work(fields, ...)`` in a reader thread.

    ``work`` gets a list that is emptied when the request is cancelled.
    """
    left = list(fields)
    try:
        return await asyncio.get_running_loop().run_in_executor(_READERS, work, left, *rest)
    finally:
        left.clear()  # a cancelled call stays queued until a thread is free: it must find nothing to do


async def in_writer(work: Callable[[*Ts], T], *arguments: *Ts) -> T:
    """The result of ``work(...)`` in a writer thread."""
    return await asyncio.get_running_loop().run_in_executor(_WRITERS, work, *arguments)
