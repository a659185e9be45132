"""Run one task per row of a Ray Data dataset; errors come back as values."""

import logging
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray.data
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, WorkerCrashedError
from ray.util.annotations import RayDeprecationWarning

from lbae.distributed.cluster.failures import root_cause
from lbae.distributed.cluster.ray_private import pass_arguments_by_value
from lbae.errors import LbaeError, UnforeseenError, as_lbae_error, working_on

_logger = logging.getLogger(__name__)

# Without a limit Ray Data retries a task for ever whose process dies, also when the task kills it. An actor
# may lose more processes than a task: it lives as long as the job, and the death of a node counts. Its limit
# is max_restarts and not max_task_retries, with which the death of a node would end the job.
_TASK_RETRIES = 3
_ACTOR_RESTARTS = 9


def configure_ray_data() -> None:
    """Make Ray Data show no progress of its own, and raise the errors of its tasks without wrapping them."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True


def _as_rows(tasks: Sequence[Any]) -> ray.data.Dataset:
    """A dataset with one task per row, and one row per block, so that any worker may take any task."""
    configure_ray_data()
    return ray.data.from_items(
        [{"task": pickle.dumps(task)} for task in tasks], override_num_blocks=len(tasks)
    )


def map_tasks(
    tasks: Sequence[Any], work: Callable[[dict[str, Any]], dict[str, Any]] | type, **options: Any
) -> ray.data.Dataset:
    """Return the dataset of the results of ``work``, a function or a class for actors, one row per task.

    ``options`` are those of Ray Data's ``map``.
    """
    pass_arguments_by_value()
    limit = {"max_restarts": _ACTOR_RESTARTS} if isinstance(work, type) else {"max_retries": _TASK_RETRIES}
    with warnings.catch_warnings():
        # Ray will drop options passed this way, but 2.60 has no other way to limit retries.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return _as_rows(tasks).map(work, **options, **limit)


def _working_on(task: Any) -> str:
    return f"working on {task}"


def run_task(
    row: dict[str, Any], work: Callable[[Any], Any], doing: Callable[[Any], str] = _working_on
) -> dict[str, Any]:
    """Return the row that holds the result of ``work`` for a task, or its error, for :func:`results`.

    Errors are values because Ray Data would retry an exception, and hand it on without its cause. An
    unforeseen one names its type and what ``doing`` says of the task, as ``(while encoding a.parquet)``; the
    log of the process has its traceback.
    """
    task = pickle.loads(row["task"])
    try:
        with working_on(doing(task)):
            result = work(task)
    except Exception as error:
        result = as_lbae_error(error)
        if isinstance(result, UnforeseenError):
            _logger.exception("a task failed")
    return {"result": pickle.dumps(result)}


def results(rows: ray.data.Dataset) -> Iterator[Any]:
    """Yield the result of every task, in completion order.

    Raises:
        LbaeError: The first error of a task, or the end of processes that kept dying.
    """
    try:
        for row in rows.iter_rows():
            result = pickle.loads(row["result"])
            if isinstance(result, Exception):
                raise result
            yield result
    except (WorkerCrashedError, OutOfMemoryError, NodeDiedError, ActorDiedError) as error:
        if getattr(error, "actor_init_failed", False):
            raise root_cause(error) from error
        times = (_ACTOR_RESTARTS if isinstance(error, ActorDiedError) else _TASK_RETRIES) + 1
        raise LbaeError(
            f"a worker process died {times} times (out of memory, or an image that crashes the decoder);"
            f" finished work is kept, run the job again:"
            f" {' '.join(str(error).split())[:300]}"
        ) from error
