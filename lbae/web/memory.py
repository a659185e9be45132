"""The memory that the requests of a replica may hold at once.

A request claims bytes before it takes them, and is refused if they are not free. It never waits for them, so
no request can wait for another one whose client is slow.
"""

import threading
from typing import Annotated

from fastapi import Depends, Request

from lbae.web.answers.error_answers import RequestError

BODY_COPIES = 3
"""Bytes per byte of a body: as it arrives, as text, and as the values read from it."""
IMAGE_COPIES = 2
"""Images of a batch are held as they were read or made, and once more when they are put together."""

# Requests that hold more than a sixty-fourth of all memory leave an eighth free for the smaller ones.
_SMALL, _RESERVE = 64, 8


class MemoryBudget:
    """The bytes that all requests of a replica may hold at once, and those that are free."""

    def __init__(self, total: int) -> None:
        self.total = self.free = total
        self.lock = threading.Lock()  # a thread may outlive its request, and then gives back its bytes


class MemoryShare:
    """What one request holds of the budget, until its last user lets go.

    The request is the first user. Every writer thread that works for it is another, because a running thread
    is not stopped when its request is cancelled.
    """

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget, self._held, self._users = budget, 0, 1

    def claim(self, more: int) -> None:
        """Hold ``more`` bytes, too; RequestError 413 if they can never be free, 503 if they are not now."""
        with self._budget.lock:
            self._check(more)
            self._budget.free -= more
            self._held += more

    def _check(self, more: int) -> None:
        total, held = self._budget.total, self._held + more
        if held > (most := total - total // _RESERVE):
            raise RequestError(
                413,
                f"the request takes {held / 1e6:.0f} MB of memory; allowed: {most / 1e6:.0f} MB; send less,"
                " or ask for fewer images or latents",
            )
        reserve = total // _RESERVE if held > total // _SMALL else 0
        if more > self._budget.free - reserve:
            raise RequestError(
                503, "other requests take up the replica's memory; retry later", None, {"Retry-After": "1"}
            )

    def keep(self) -> None:
        """Add a user."""
        with self._budget.lock:
            self._users += 1

    def let_go(self) -> None:
        """Remove a user; the last one gives back all that the request holds."""
        with self._budget.lock:
            self._users -= 1
            if not self._users:
                self._budget.free += self._held


def request_share(request: Request) -> MemoryShare:
    """The share of a request, which the guard has put into its state."""
    share: MemoryShare = request.state.memory
    return share


RequestMemory = Annotated[MemoryShare, Depends(request_share)]
