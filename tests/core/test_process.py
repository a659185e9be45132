import subprocess
import sys

import pytest

SCRIPT = """
import platform, resource, torch
from lbae.core import process
if {prepared}: process.prepare(threads=1)
for _ in range(8): torch.ones(2**24).add_(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20): torch.ones(2**24).add_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, torch.get_num_threads(), platform.libc_ver()[0])
"""


def faults(prepared: bool) -> tuple[int, int, str]:
    """Page faults of twenty allocations of 64 MiB, threads, C library, in a process of its own."""
    command = [sys.executable, "-c", SCRIPT.format(prepared=prepared)]
    count, threads, libc = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(count), int(threads), libc


def test_freed_memory_is_reused():
    count, threads, libc = faults(prepared=True)
    assert threads == 1
    if libc != "glibc":
        pytest.skip("no mallopt to ask")
    assert count < faults(prepared=False)[0] / 10
