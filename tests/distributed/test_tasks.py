"""Tasks that kill their process are given up, and errors come back as values."""

import os
import signal
from typing import Any

import pytest
import ray.data

from lbae.distributed.cluster import tasks
from lbae.distributed.cluster.tasks import answered, outcomes, over
from lbae.errors import LbaeError

POISON = 2


def work(task: int) -> int:
    if task == POISON:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


@pytest.mark.slow
def test_a_task_that_kills_its_process_is_given_up(ray_session):
    with pytest.raises(LbaeError, match="a task was given up: the process that ran it died 4 times"):
        list(outcomes(over([0, POISON], lambda row: answered(row, work), num_cpus=1)))


class Worker:
    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return answered(row, work)


@pytest.mark.slow
def test_an_actor_that_keeps_dying_ends_the_job(ray_session, monkeypatch):
    monkeypatch.setattr(tasks, "_STARTS_AGAIN", 2)
    with pytest.raises(LbaeError, match="a task was given up: the process that ran it died 3 times"):
        list(outcomes(over([0, POISON, 1], Worker, compute=ray.data.ActorPoolStrategy(size=1), num_cpus=1)))


def test_errors_come_back_as_themselves(ray_session):
    def fail(task: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        list(outcomes(over([0], lambda row: answered(row, fail), num_cpus=1)))
