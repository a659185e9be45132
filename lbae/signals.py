"""SIGTERM, which ``ray job stop`` sends, ends a job as Ctrl-C does, but with another exit code.

The handler must raise KeyboardInterrupt and note the signal elsewhere: while Ray waits, it swallows all other
exceptions of a handler and replaces a KeyboardInterrupt with a new one.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Termination:
    """The handler of SIGTERM while a job runs; ``requested`` tells whether the signal has come."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self, *_: object) -> None:
        """Raise KeyboardInterrupt on the first signal only: a second one would cut the clean-up short."""
        if not self.requested:
            self.requested = True
            raise KeyboardInterrupt


@contextmanager
def sigterm_interrupts() -> Iterator[Termination]:
    """Let SIGTERM interrupt the block and yield a Termination; restore the previous handler afterwards."""
    termination = Termination()
    before = signal.signal(signal.SIGTERM, termination)
    try:
        yield termination
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def sigterm_handler_kept() -> Iterator[None]:
    """Keep the handler of SIGTERM through a block, such as ``ray.init``, that installs one that exits."""
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
