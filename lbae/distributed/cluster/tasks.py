"""Work as Ray Data sets: one task a row and block, and errors as values."""

import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray.data
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, WorkerCrashedError
from ray.util.annotations import RayDeprecationWarning

from lbae.distributed.cluster.actor_arguments import pass_arguments_by_value
from lbae.errors import LbaeError

# Ray Data tries a task again for ever when its process dies, also when the task is what kills it. An actor
# may lose more processes than a task: it lives as long as the job, and the death of a node counts. Its limit
# is one of processes, not of tries (max_task_retries), for which the death of a node would end the job.
_TRIES_AGAIN = 3
_STARTS_AGAIN = 9


def _as_rows(tasks: Sequence[Any]) -> ray.data.Dataset:
    """A data set whose rows are these tasks, each a block of its own, so that any worker may take any of
    them.
    """
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray.data.from_items(
        [{"task": pickle.dumps(task)} for task in tasks], override_num_blocks=len(tasks)
    )


def over(
    tasks: Sequence[Any], work: Callable[[dict[str, Any]], dict[str, Any]] | type, **options: Any
) -> ray.data.Dataset:
    """What ``work``, a function or a class for actors, makes of the rows of tasks, with options of Ray Data's
    ``map``.
    """
    pass_arguments_by_value()
    limit = {"max_restarts": _STARTS_AGAIN} if isinstance(work, type) else {"max_retries": _TRIES_AGAIN}
    with warnings.catch_warnings():
        # Ray will drop options without names of their own, but 2.60 has no other way to say how often it is
        # to try.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return _as_rows(tasks).map(work, **options, **limit)


def answered(row: dict[str, Any], work: Callable[[Any], Any]) -> dict[str, Any]:
    """The row of what ``work`` returns for a task, or of its error: an exception would leave Ray Data without
    its cause.
    """
    try:
        outcome = work(pickle.loads(row["task"]))
    except (LbaeError, OSError) as error:
        outcome = error
    return {"outcome": pickle.dumps(outcome)}


def outcomes(rows: ray.data.Dataset) -> Iterator[Any]:
    """What was returned for every task, as it comes; the first error is raised, LbaeError for processes that
    keep dying.
    """
    try:
        for row in rows.iter_rows():
            outcome = pickle.loads(row["outcome"])
            if isinstance(outcome, Exception):
                raise outcome
            yield outcome
    except (WorkerCrashedError, OutOfMemoryError, NodeDiedError, ActorDiedError) as error:
        times = (_STARTS_AGAIN if isinstance(error, ActorDiedError) else _TRIES_AGAIN) + 1
        raise LbaeError(
            f"a task was given up: the process that ran it died {times} times, of an image that breaks a"
            f" decoder"
            f" or for want of memory; what is finished is kept, run the job again:"
            f" {' '.join(str(error).split())[:300]}"
        ) from error
