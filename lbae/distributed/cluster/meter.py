"""A counter that workers add to, shown on the driver as a progress line."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lbae.errors import LbaeError
from lbae.report.progress import ProgressLine

_POLL_S = 0.5


@ray.remote(num_cpus=0)
class Meter:
    """Counts what workers have done, for the driver's progress line."""

    def __init__(self) -> None:
        self._done = self._total = 0
        self._note = ""
        self._failure: LbaeError | None = None

    def begin(self, done: int, total: int) -> None:
        """Set what was done before and what is to do in all."""
        self._done, self._total = done, total

    def add(self, done: int) -> None:
        """Count."""
        self._done += done

    def say(self, note: str) -> None:
        """Set a word on it."""
        self._note = note

    def fail(self, error: LbaeError) -> None:
        """Set why the work cannot go on."""
        self._failure = self._failure or error

    def failure(self) -> LbaeError | None:
        """Why it cannot go on."""
        return self._failure

    def read(self) -> tuple[int, int, str]:
        """Done, total, note."""
        return self._done, self._total, self._note


def start_meter() -> Any:
    """A :class:`Meter` on the driver's node, so that it lives as long as the driver, whichever other node
    dies.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Meter.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]


@contextmanager
def watched(meter: Any, line: ProgressLine) -> Iterator[None]:
    """Show a :class:`Meter` on a progress line while the main thread waits for something else."""
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(_POLL_S):
            line.update(*ray.get(meter.read.remote()))

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
