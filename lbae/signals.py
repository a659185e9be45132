"""How SIGTERM, which ``ray job stop`` sends, ends a job: as Ctrl-C does, but with an exit code of its own.

An exception class cannot say which signal it was: where Ray waits, it swallows every exception of a handler
but KeyboardInterrupt, and raises a new one of those.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Termination:
    """The handler of SIGTERM while a job runs; ``requested`` says whether the signal has come."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self, *_: object) -> None:
        """Raise KeyboardInterrupt on the first signal; a second one would cut the clean-up short."""
        if not self.requested:
            self.requested = True
            raise KeyboardInterrupt


@contextmanager
def sigterm_interrupts() -> Iterator[Termination]:
    """Let SIGTERM interrupt the block; yields what says whether it did. The handler before comes back."""
    termination = Termination()
    before = signal.signal(signal.SIGTERM, termination)
    try:
        yield termination
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def sigterm_handler_kept() -> Iterator[None]:
    """Keep this process's handler of SIGTERM over a block that replaces it by one that exits, as ray.init."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as stop:
        if stop.code == signal.SIGTERM and callable(handler):
            handler(signal.SIGTERM, None)
        raise
    finally:
        if callable(handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
