"""The environment of processes that run a network."""

# Of processes that run a network on CPUs: glibc is to keep what is freed, in one arena for all threads.
# Activations are megabytes; by default such blocks come from the kernel and go back one by one, so that every
# layer of every batch waits for zeroed pages, and a training step takes 1.4 times as long (docs/results.md).
RUNS_A_NETWORK = {
    "env_vars": {
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": str(2**30),
        "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    }
}
