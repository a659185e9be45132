"""Call a function with each of several arguments: as Ray tasks, or in this process if it has no Ray."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import ray

T = TypeVar("T")


def call_each(
    function: Callable[..., T],
    shared: tuple[Any, ...],
    calls: Iterable[tuple[Any, ...]],
    runtime_env: dict[str, Any] | None = None,
) -> Iterator[T]:
    """Yield ``function(*shared, *arguments)`` for the arguments of each call, in order.

    The tasks of a cluster all start with the first result that is asked for. ``shared`` travels to a node
    only once. ``runtime_env`` is that of the tasks' processes: new ones start unless some idle ones have it.
    A process without Ray is one whose :func:`lbae.distributed.cluster.session.session` holds little work.
    """
    if not ray.is_initialized():
        yield from (function(*shared, *arguments) for arguments in calls)
        return
    task = ray.remote(num_cpus=1, runtime_env=runtime_env)(function)
    handles = [ray.put(value) for value in shared]
    yield from map(ray.get, [task.remote(*handles, *arguments) for arguments in calls])
