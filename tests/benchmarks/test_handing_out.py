"""Handing out tasks that do nothing: the driver's time and memory per task, against calls of plain actors."""

import time
from pathlib import Path

import pytest
import ray

from lbae.distributed.cluster.actor_pool import run_on_actors
from lbae.distributed.cluster.tasks import blocks
from tests.benchmarks.conftest import peak

ACTORS, WAITING = 2, 2  # Ray Data lets two tasks wait for each actor as well


class Nothing:
    def __init__(self, *, device: str) -> None:
        pass

    def __call__(self, task: int) -> int:
        return task


@ray.remote(num_cpus=0)
class Plain:
    def call(self, task: int) -> int:
        return task


def pool(tasks: int) -> float:
    """The seconds in which our pool of actors returns all tasks, with its start."""
    started = time.perf_counter()
    assert sum(1 for _ in run_on_actors(range(tasks), Nothing, str)) == tasks
    return time.perf_counter() - started


def plain(tasks: int) -> float:
    """The seconds in which plain actors, already started, return as many calls."""
    actors = [Plain.remote() for _ in range(ACTORS)]
    ray.get([actor.call.remote(0) for actor in actors])
    started, left = time.perf_counter(), iter(range(tasks))
    waiting = {actor.call.remote(next(left)): actor for actor in actors for _ in range(WAITING)}
    while waiting:
        (done,), _ = ray.wait([*waiting])
        actor = waiting.pop(done)
        ray.get(done)
        for task in left:
            waiting[actor.call.remote(task)] = actor
            break
    return time.perf_counter() - started


@pytest.mark.parametrize("tasks", [2_000, 10_000, 100_000])
def test_handing_out(tasks):
    ray.init(address="local", num_cpus=ACTORS, object_store_memory=2**30, log_to_driver=False)
    driver = Path("/proc/self")
    empty = pool(ACTORS)
    (driver / "clear_refs").write_text("5")  # resets the driver's peak memory
    before, spent = peak(driver), pool(tasks) - empty
    print(
        f"\n{tasks} tasks in {blocks(tasks, ACTORS)} blocks: {tasks / spent:.0f} per second without the start"
        f" of {empty:.1f} s, {plain(tasks) / spent:.2f} times as fast as plain calls;"
        f" {(peak(driver) - before) * 1e3 / tasks:.1f} kB of the driver per task"
    )
    ray.shutdown()
