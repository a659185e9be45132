"""The environment of processes that run torch on CPUs, and tasks that run in one."""

from typing import Any

import ray

# Make glibc keep freed memory, in one arena for all threads. By default it returns blocks of megabytes, such
# as activations, to the kernel one by one. Every layer of every batch then waits for zeroed pages, and a
# training step takes 1.4 times as long (docs/measurements.md).
TORCH_RUNTIME_ENV = {
    "env_vars": {
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": str(2**30),
        "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    }
}


def torch_task(function: Any) -> Any:
    """Return a Ray task with one CPU that may run torch.

    All such tasks share one runtime environment, so they reuse worker processes that have torch imported.
    """
    return ray.remote(num_cpus=1, runtime_env=TORCH_RUNTIME_ENV)(function)
