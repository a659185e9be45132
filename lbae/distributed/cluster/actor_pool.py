"""Run one task per row of a Ray Data dataset on a pool of actors that hold a network."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray.data
import torch

from lbae.distributed.cluster.resources import cluster_gpus, node_cpus, torch_cpus
from lbae.distributed.cluster.tasks import map_tasks, results, run_task
from lbae.distributed.cluster.torch_env import TORCH_RUNTIME_ENV

_ACTORS_PER_GPU = 4  # a GPU runs the network faster than one CPU decodes or compresses image files


def pool_size(cpus: int, gpus: int) -> tuple[int, float]:
    """The number of actors, one per CPU, and the share of a GPU that each has.

    They may take every CPU: the driver hands out what they work on, so no task waits for a CPU they hold.
    """
    if not gpus:
        return cpus, 0
    sharing = max(1, min(_ACTORS_PER_GPU, cpus // gpus))
    return gpus * sharing, 1 / sharing


def torch_device() -> tuple[str, float]:
    """The kind of device on which actors and tasks run a network, and the share of a GPU that each has."""
    share = pool_size(torch_cpus(), cluster_gpus())[1]
    return "cuda" if share else "cpu", share


def run_on_actors(
    tasks: Sequence[Any],
    worker: Callable[..., Callable[[Any], Any]],
    doing: Callable[[Any], str],
    **arguments: Any,
) -> Iterator[Any]:
    """Yield the result of a worker for each task, in completion order.

    Args:
        tasks: one per row and block, so that any actor may take any of them.
        worker: a class; each actor makes one instance with ``arguments`` and its ``device``, and calls it
            with one task at a time. Torch has the actor's share of the CPUs as threads by then.
        doing: says of a task what is done, as ``encoding a.parquet``, for the message of an unforeseen error.
        arguments: what every instance gets.
    """
    if not tasks:
        return
    cpus, gpus = torch_cpus(), cluster_gpus()
    most, (device, share) = pool_size(cpus, gpus)[0], torch_device()
    actors = min(most, len(tasks))
    # Of CPUs, at most those of one node: an actor cannot use another's.
    threads = max(1, min(cpus // actors, node_cpus(min(1, gpus))))
    rows = map_tasks(
        tasks,
        _Actor,
        fn_constructor_kwargs={
            "worker": worker,
            "doing": doing,
            "threads": threads,
            "arguments": {**arguments, "device": device},
        },
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=1,
        num_gpus=share or None,
        runtime_env=TORCH_RUNTIME_ENV,
    )
    yield from results(rows)


class _Actor:
    def __init__(
        self,
        worker: Callable[..., Callable[[Any], Any]],
        doing: Callable[[Any], str],
        threads: int,
        arguments: dict[str, Any],
    ) -> None:
        torch.set_num_threads(threads)
        self._work, self._doing = worker(**arguments), doing

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return run_task(row, self._work, self._doing)
