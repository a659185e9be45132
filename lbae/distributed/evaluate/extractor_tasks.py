"""Run functions of an evaluation's feature extractor as Ray tasks, whose processes load it only once."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, WorkerCrashedError

from lbae.distributed.cluster.actor_pool import torch_device
from lbae.distributed.cluster.failures import process_died
from lbae.distributed.cluster.tasks import TASK_RETRIES
from lbae.distributed.cluster.torch_env import torch_task
from lbae.errors import working_on
from lbae.report.evaluation.feature_extraction import FeatureExtractor


class ExtractorTasks:
    """Starts tasks that call a function with the extractor as its first argument.

    Tasks, not actors: Ray shares the CPUs among them and what depends on them, and its processes stay the
    same from the first block of features to the last edit. Starting a process costs seconds of a core.
    """

    def __init__(self, extractor: FeatureExtractor) -> None:
        self._held = [ray.put(extractor)]  # in a list, Ray passes the reference and not the extractor
        self._device, share = torch_device()
        self._task: Any = _call.options(num_gpus=share)

    def start(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> ray.ObjectRef:
        """Start ``function(extractor, *args, **kwargs)``."""
        ref: ray.ObjectRef = self._task.remote(self._held, self._device, function, *args, **kwargs)
        return ref


def in_completion_order(tasks: Sequence[ray.ObjectRef]) -> Iterator[Any]:
    """Yield the results of tasks; LbaeError if a process dies each time that Ray tries a task."""
    pending = list(tasks)
    while pending:
        done, pending = ray.wait(pending)
        try:
            yield from ray.get(done)
        except (WorkerCrashedError, OutOfMemoryError, NodeDiedError) as error:
            raise process_died(error, TASK_RETRIES + 1, "run the evaluation again") from error


@torch_task
def _call(
    held: list[ray.ObjectRef], device: str, function: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    facts = [f"{name}={value}" for name, value in kwargs.items()]
    with working_on(" ".join([function.__name__, ", ".join(facts)])):
        return function(_extractor(held[0], device), *args, **kwargs)


@lru_cache(maxsize=1)
def _extractor(held: ray.ObjectRef, device: str) -> FeatureExtractor:
    loaded: FeatureExtractor = ray.get(held)
    return loaded.to(device)
