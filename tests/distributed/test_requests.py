"""A job that waits for CPUs or GPUs asks the autoscaler for them, and ends no other job's request."""

import threading
import time

import pytest
import ray
from ray.util import placement_group_table

from lbae.distributed.cluster.resources import wait_for, wait_for_gpus
from lbae.errors import UserError


def pending() -> list[int]:
    """The number of bundles of every pending placement group."""
    groups = placement_group_table().values()
    return sorted(len(group["bundles"]) for group in groups if group["state"] == "PENDING")


def test_a_waiter_that_gives_up_leaves_the_requests_of_others(ray_session, monkeypatch):
    said: dict[int, str] = {}

    def ask(count: int) -> None:
        try:
            wait_for(count, "CPU", "start more")
        except UserError as error:
            said[count] = str(error)

    waiters = {}
    for count, seconds in ((70, "2"), (80, "6")):
        monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", seconds)
        waiters[count] = threading.Thread(target=ask, args=(count,))
        waiters[count].start()
        while count not in pending():
            time.sleep(0.05)
    assert pending() == [70, 80]
    waiters[70].join()
    assert pending() == [80], "the request of the second waiter"
    waiters[80].join()
    assert pending() == []
    assert said == {
        70: "70 CPUs are needed; the cluster has 2 after 2 s: start more",
        80: "80 CPUs are needed; the cluster has 2 after 6 s: start more",
    }


def test_what_other_jobs_hold_counts_as_there(ray_session):
    @ray.remote(num_cpus=2)
    class Holder:
        def ready(self) -> bool:
            return True

    holder = Holder.remote()
    assert ray.get(holder.ready.remote())
    wait_for(2, "CPU", "start more")
    ray.kill(holder)


def test_gpus_that_do_not_come_are_named(ray_session, monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1")
    with pytest.raises(
        UserError, match="1 GPUs are needed; the cluster has 0 after 1 s: start nodes that have"
    ):
        wait_for_gpus(1)
    assert pending() == []
