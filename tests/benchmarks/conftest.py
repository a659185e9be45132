"""Measuring: the work and its baseline take turns in one run, and the ratio is reported with its spread."""

import statistics
import time
from collections.abc import Callable

import pytest

ROUNDS = 7


@pytest.fixture
def compare(request: pytest.FixtureRequest) -> Callable[..., None]:
    """``compare(work, baseline)`` prints baseline's time over the work's: above 1 the work is faster."""

    def run(work: Callable[[], object], baseline: Callable[[], object], meaning: str) -> None:
        work(), baseline()
        ratios, spent = [], []
        for _ in range(ROUNDS):
            seconds = []
            for call in (work, baseline):
                started = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - started)
            ratios.append(seconds[1] / seconds[0])
            spent.append(seconds[0])
        low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
        name = request.node.name.removeprefix("test_")
        print(f"\n{name}: {middle:.2f} times {meaning} ({low:.2f} to {high:.2f}; {statistics.median(spent):.3f} s)")

    return run
