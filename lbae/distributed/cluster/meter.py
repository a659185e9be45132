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
    """Counts the work that workers have done, for the driver's progress line."""

    def __init__(self) -> None:
        self._done = self._total = self._restarts = 0
        self._note = ""
        self._failure: LbaeError | None = None

    def set_progress(self, done: int, total: int) -> None:
        """Set the work done so far and the total."""
        self._done, self._total = done, total

    def add(self, done: int) -> None:
        """Count further work as done."""
        self._done += done

    def set_note(self, note: str) -> None:
        """Set the note shown beside the progress."""
        self._note = note

    def restarted(self, cause: str) -> None:
        """Count a restart of the workers, and show its cause as the note."""
        self._restarts += 1
        self._note = f"restart {self._restarts}: {cause}"

    def restarts(self) -> int:
        """The number of restarts."""
        return self._restarts

    def fail(self, error: LbaeError) -> None:
        """Record the error that ends the work; only the first one is kept."""
        self._failure = self._failure or error

    def failure(self) -> LbaeError | None:
        """The recorded error, if any."""
        return self._failure

    def read(self) -> tuple[int, int, str]:
        """Done, total, note."""
        return self._done, self._total, self._note


def start_meter() -> Any:
    """A :class:`Meter` on the driver's node, where it survives the death of any other node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Meter.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]


@contextmanager
def watched(meter: Any, line: ProgressLine) -> Iterator[None]:
    """Update a progress line from a :class:`Meter`, in a thread, until the block ends."""
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
