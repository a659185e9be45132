"""Progress takes few calls, and failures do not wait behind it."""

import time

import ray

from lbae.distributed.cluster.meter import Tally, start_meter
from lbae.errors import LbaeError


@ray.remote(num_cpus=0)
class Recorder:
    """Keeps the arguments of all calls."""

    def __init__(self) -> None:
        self.added: list[int] = []

    def add(self, done: int) -> None:
        self.added.append(done)

    def read(self) -> list[int]:
        return self.added


def test_progress_takes_two_calls_per_second_and_none_is_lost(ray_session):
    recorder = Recorder.remote()
    started = time.monotonic()
    tally = Tally(recorder)
    for _ in range(100_000):
        tally.add(3)
    tally.flush()
    tally.flush()
    seconds = time.monotonic() - started
    added = ray.get(recorder.read.remote())
    assert sum(added) == 300_000
    assert len(added) <= 2 * seconds + 1


def test_a_failure_does_not_wait_behind_progress(ray_session):
    """The meter's own thread is busy until the failure has arrived; many calls wait behind it."""
    meter = start_meter()

    def until_a_failure(state: object) -> None:
        while state._failure is None:
            time.sleep(0.01)

    busy = meter.__ray_call__.remote(until_a_failure)
    waiting = [meter.add.remote(1) for _ in range(1000)]
    ray.get(meter.fail.remote(LbaeError("the first")), timeout=60)
    ray.get(meter.fail.remote(LbaeError("the second")), timeout=60)
    assert str(ray.get(meter.failure.remote(), timeout=60)) == "the first"
    ray.get([busy, *waiting])
    assert ray.get(meter.read.remote()) == (1000, 0, "")
