"""What a process whose work is to run a network sets up first: its threads, and a C allocator that keeps what is freed.

Activations of a batch are megabytes each. glibc takes such blocks from the kernel and hands them back one by one, so every
layer of every batch waits for zeroed pages: a training step takes 1.4 times as long (docs/results.md).
"""

import ctypes

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_NEVER = 2**31 - 1
_BLOCK_BYTES = 2**30


def prepare(threads: int) -> None:
    """Multiply on ``threads`` threads, and reuse freed blocks below 1 GiB; other C libraries than glibc keep their ways."""
    torch.set_num_threads(threads)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _BLOCK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)
