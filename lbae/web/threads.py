"""The threads of a replica in which images are read and written, so that its event loop stays free.

A request can be given up, by its client or for its time; its thread cannot. An executor counts it until it
has ended, where a limiter of anyio's would let the next one begin beside it, and begins nothing for a request
that is gone.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

# An image of as many pixels as are allowed takes 300 MB meanwhile, and so does an answer. Who wants to see
# samples does not wait for those who send photographs.
_READERS = ThreadPoolExecutor(4, thread_name_prefix="reader")
_WRITERS = ThreadPoolExecutor(4, thread_name_prefix="writer")

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


async def in_reader(work: Callable[[list[str], *Ts], T], texts: list[str], *rest: *Ts) -> T:
    """What ``work`` makes of texts, one after the other. It finds no more of them when the request is given
    up.
    """
    left = list(texts)
    try:
        return await asyncio.get_running_loop().run_in_executor(_READERS, work, left, *rest)
    finally:
        left.clear()  # a cancelled call stays queued until a thread is free: it must find nothing to do


async def in_writer(work: Callable[[*Ts], T], *arguments: *Ts) -> T:
    """What ``work`` returns."""
    return await asyncio.get_running_loop().run_in_executor(_WRITERS, work, *arguments)
