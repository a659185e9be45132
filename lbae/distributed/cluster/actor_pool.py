"""Run one task per row of a Ray Data dataset on a pool of actors that hold a network."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray.data
import torch

from lbae.distributed.cluster.device import checked_device, device_type
from lbae.distributed.cluster.resources import cluster_gpus, node_cpus, torch_cpus
from lbae.distributed.cluster.tasks import map_tasks, results, run_task
from lbae.distributed.cluster.torch_env import TORCH_RUNTIME_ENV

_ACTORS_PER_GPU = 4  # a GPU runs the network faster than one CPU decodes or compresses image files


def pool_size(cpus: int, gpus: int) -> tuple[int, float]:
    """The number of actors, and the share of a GPU per actor.

    Without GPUs, one actor per CPU; with GPUs, up to four per GPU. The actors may hold every CPU: their tasks
    come from the driver, so no other task waits for a CPU.
    """
    if not gpus:
        return cpus, 0
    sharing = max(1, min(_ACTORS_PER_GPU, cpus // gpus))
    return gpus * sharing, 1 / sharing


def torch_device() -> tuple[str, float]:
    """The device type on which actors and tasks run a network, and the share of a GPU per actor or task."""
    share = pool_size(torch_cpus(), cluster_gpus())[1]
    return device_type(share), share


def run_on_actors(
    tasks: Sequence[Any],
    worker: Callable[..., Callable[[Any], Any]],
    doing: Callable[[Any], str],
    **arguments: Any,
) -> Iterator[Any]:
    """Run a worker on every task, and yield the results in completion order.

    Args:
        tasks: any actor may take any of them.
        worker: a class. Each actor creates one instance with ``arguments`` and its ``device``, and calls it
            with one task at a time. Beforehand, torch gets as many threads as the actor's share of the CPUs.
        doing: describes a task, such as ``encoding a.parquet``, for the message of an unforeseen error.
        arguments: keyword arguments for every instance.
    """
    if not tasks:
        return
    cpus, gpus = torch_cpus(), cluster_gpus()
    most, (device, share) = pool_size(cpus, gpus)[0], torch_device()
    actors = min(most, len(tasks))
    # At most the CPUs of one node, because an actor runs on one node.
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
        checked_device(arguments["device"])
        self._work, self._doing = worker(**arguments), doing

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return run_task(row, self._work, self._doing)
