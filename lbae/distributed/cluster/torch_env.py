"""The environment of processes that run torch on CPUs, and tasks that run in one."""

from typing import Any

import ray

# glibc must keep freed memory, in one arena for all threads. Activations are megabytes; by default such
# blocks come from the kernel and go back one by one, so every layer of every batch waits for zeroed pages,
# and a training step takes 1.4 times as long (docs/results.md).
TORCH_RUNTIME_ENV = {
    "env_vars": {
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": str(2**30),
        "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    }
}


def torch_task(function: Any) -> Any:
    """Return a Ray task of one CPU that may run torch.

    All such tasks share one kind of worker process, which has its libraries imported for the next task.
    """
    return ray.remote(num_cpus=1, runtime_env=TORCH_RUNTIME_ENV)(function)
