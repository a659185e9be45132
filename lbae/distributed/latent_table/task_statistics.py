"""Statistics of a reduction's Ray tasks, for the result of the job."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class TaskStatistics:
    """Rows and stored bytes read, bytes moved between nodes, and seconds by kind of work."""

    tasks: int = 0
    rows: int = 0
    read_bytes: int = 0
    moved_bytes: int = 0
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def timed(self, work: str) -> Iterator[None]:
        """Add the time of the block to the seconds of this kind of work."""
        started = time.perf_counter()
        yield
        self.seconds[work] += time.perf_counter() - started

    def add(self, other: "TaskStatistics") -> None:
        """Add the statistics of another task."""
        self.tasks += other.tasks
        self.rows += other.rows
        self.read_bytes += other.read_bytes
        self.moved_bytes += other.moved_bytes
        for work, seconds in other.seconds.items():
            self.seconds[work] += seconds

    def facts(self) -> dict[str, Any]:
        """The entries of a job's result."""
        return {
            "tasks": self.tasks,
            "bytes_read": self.read_bytes,
            "bytes_moved": self.moved_bytes,
            "task_seconds": {work: round(seconds, 2) for work, seconds in self.seconds.items()},
        }
