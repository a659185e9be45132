"""Run one task per row of a Ray Data dataset; errors come back as values."""

import logging
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray.data
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, WorkerCrashedError
from ray.util.annotations import RayDeprecationWarning

from lbae.distributed.cluster.failures import process_died, root_cause
from lbae.distributed.cluster.ray_private import pass_arguments_by_value
from lbae.distributed.cluster.resources import cluster_cpus
from lbae.errors import UnforeseenError, as_lbae_error, working_on

_logger = logging.getLogger(__name__)

# Ray Data by default retries a task forever when its process dies, even if the task itself kills it. Actors
# get a higher limit, because they live as long as the job and a lost node counts too. Their limit is
# max_restarts, because with max_task_retries a lost node would end the job.
TASK_RETRIES = 3
_ACTOR_RESTARTS = 9
# Ray Data costs the driver some milliseconds and 7 kB per block, whatever the cluster's size. So many tasks
# share blocks, but every CPU gets enough blocks for all to end at about the same time.
_BLOCKS, _BLOCKS_PER_CPU = 2**11, 16


def configure_ray_data() -> None:
    """Turn off Ray Data's progress bars, and let it raise the errors of its tasks unwrapped."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True


def blocks(tasks: int, cpus: int) -> int:
    """The number of blocks of tasks that are handed out: one per task, or fewer if there are many tasks."""
    return min(tasks, max(_BLOCKS, _BLOCKS_PER_CPU * cpus))


def _as_rows(tasks: Sequence[Any]) -> ray.data.Dataset:
    """A dataset with one task per row. Any worker may take any block of consecutive rows."""
    configure_ray_data()
    rows = [{"task": pickle.dumps(task)} for task in tasks]
    return ray.data.from_items(rows, override_num_blocks=blocks(len(rows), cluster_cpus()))


def map_tasks(
    tasks: Sequence[Any], work: Callable[[dict[str, Any]], dict[str, Any]] | type, **options: Any
) -> ray.data.Dataset:
    """Return a dataset with one row per task: the result of ``work``, a function or a class for actors.

    Beyond some thousand tasks, several share a block: their results come together, and all are repeated if
    their process dies. ``options`` are those of Ray Data's ``map``.
    """
    pass_arguments_by_value()
    limit = {"max_restarts": _ACTOR_RESTARTS} if isinstance(work, type) else {"max_retries": TASK_RETRIES}
    with warnings.catch_warnings():
        # Passing options this way is deprecated, but Ray 2.60 has no other way to limit retries.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return _as_rows(tasks).map(work, **options, **limit)


def _working_on(task: Any) -> str:
    return f"working on {task}"


def run_task(
    row: dict[str, Any], work: Callable[[Any], Any], doing: Callable[[Any], str] = _working_on
) -> dict[str, Any]:
    """Return a row with the result of ``work`` for a task, or with its error; :func:`results` reads the row.

    Errors are values because Ray Data would retry an exception and drop its cause. The message of an
    unforeseen error holds its type and the description of the task by ``doing``, such as
    ``(while encoding a.parquet)``. Its traceback is in the log of the worker process.
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
        LbaeError: The first error of a task, or a worker process that died too often.
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
        retries = _ACTOR_RESTARTS if isinstance(error, ActorDiedError) else TASK_RETRIES
        raise process_died(error, retries + 1, "finished work is kept, run the job again") from error
