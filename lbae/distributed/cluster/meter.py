"""A counter that workers add to, shown on the driver as a progress line."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lbae.errors import LbaeError
from lbae.report.progress import ProgressLine

_POLL_S = 0.5
_FAILURES = "failures"


@ray.remote(num_cpus=0, concurrency_groups={_FAILURES: 1})
class Meter:
    """Counts the work that workers have done, for the driver's progress line.

    Failures have a thread of their own, so they do not wait behind progress.
    """

    def __init__(self) -> None:
        self._done = self._total = self._restarts = 0
        self._note = ""
        self._failure: LbaeError | None = None

    def set_progress(self, done: int, total: int) -> None:
        """Set the work done so far and the total."""
        self._done, self._total = done, total

    def add(self, done: int) -> None:
        """Count further work as done; :class:`Tally` does so in few calls."""
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

    @ray.method(concurrency_group=_FAILURES)
    def fail(self, error: LbaeError) -> None:
        """Record the error that ends the work; only the first one is kept."""
        self._failure = self._failure or error

    @ray.method(concurrency_group=_FAILURES)
    def failure(self) -> LbaeError | None:
        """The recorded error, if any."""
        return self._failure

    def read(self) -> tuple[int, int, str]:
        """Done, total, note."""
        return self._done, self._total, self._note


class Tally:
    """Adds a worker's progress to a :class:`Meter` at most twice per second, as often as the driver looks.

    On a GPU a step takes a few milliseconds, and a call per step of every worker would keep the meter busy.
    """

    def __init__(self, meter: Any) -> None:
        self._meter, self._waiting, self._sent = meter, 0, time.monotonic()

    def add(self, done: int) -> None:
        """Count further work as done."""
        self._waiting += done
        if time.monotonic() - self._sent >= _POLL_S:
            self.flush()

    def flush(self) -> None:
        """Send what the meter does not have yet."""
        if self._waiting:
            self._meter.add.remote(self._waiting)
        self._waiting, self._sent = 0, time.monotonic()


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
