"""Tasks that kill their process are given up, and those beside them are not lost."""

import os
import signal

import pytest
import ray.data

from lbae.distributed.tasks import answered, outcomes, over
from lbae.errors import LbaeError

POISON = 2


def work(task: int) -> int:
    if task == POISON:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


class Worker:
    def __call__(self, row):
        return answered(row, work)


def over_actors(tasks):
    return over(tasks, Worker, compute=ray.data.ActorPoolStrategy(size=1), num_cpus=1)


def over_tasks(tasks):
    return over(tasks, lambda row: answered(row, work), num_cpus=1)


@pytest.mark.slow
@pytest.mark.parametrize("dealt", [over_actors, over_tasks])
def test_a_task_that_kills_its_process_is_given_up(ray_session, dealt):
    with pytest.raises(LbaeError, match="a task was given up: the process that ran it died 4 times"):
        list(outcomes(dealt([0, POISON])))


def test_errors_come_back_as_themselves(ray_session):
    def fail(task: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        list(outcomes(over([0], lambda row: answered(row, fail), num_cpus=1)))
