"""Moment sums of two million synthetic latents of 1,500 bits.

The kernel is compared with bare products, and the task graph with the kernel. ``LBAE_BENCH_ROWS`` sets
another number of rows.
"""

import os
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from lbae.core.latents.packing import packed_width, unpack
from lbae.core.moments.moment_accumulator import BLOCK_ROWS, sum_packed
from lbae.core.moments.moment_sums import MomentSums
from lbae.distributed.latent_table.sum_tasks import moment_sums_of
from lbae.distributed.latent_table.table_scan import scan
from lbae.distributed.latent_table.task_statistics import TaskStatistics
from lbae.io.artifacts.latent_table import LatentTable, open_latent_table
from tests.conftest import write_packed

N = 1500
ROWS = int(os.environ.get("LBAE_BENCH_ROWS", 2_000_000))
ROW_GROUP = 2**15


def packed(rows: int) -> np.ndarray:
    bits = np.random.default_rng(0).integers(0, 256, (rows, packed_width(N)), dtype=np.uint8)
    bits[:, -1] &= 2 ** (N % 8) - 1
    return bits


@pytest.fixture(scope="module")
def block() -> np.ndarray:
    return packed(16 * BLOCK_ROWS)


def test_kernel_against_a_bare_product(compare, block):
    left = torch.from_numpy(unpack(block, N))
    compare(
        lambda: sum_packed(block, N), lambda: torch._int_mm(left.T, left), "as fast as one bare int8 product"
    )


def test_kernel_against_float64(compare, block):
    """NumPy multiplies an eighth of the rows eight times: as float64, all of them would not fit in memory.

    Its rows are unpacked beforehand.
    """
    latents = unpack(block[: len(block) // 8], N).astype(np.float64)
    compare(
        lambda: sum_packed(block, N),
        lambda: [latents.T @ latents for _ in range(8)],
        "as fast as float64 NumPy",
    )


def test_graph_against_the_kernel(tmp_path: Path):
    """Kernel and graph take turns on warm workers: the kernel on two threads, the graph with two tasks of one
    thread.

    The smallest table is read once before the timed runs of a round, because tasks after seconds of idling
    take up to 1.5 times as long, whichever table they read.
    """
    bits = packed(ROWS)
    tables = {
        share: open_latent_table(
            write_packed(
                tmp_path / str(share), bits[: ROWS // share], N, parts=16 // share, row_group=ROW_GROUP
            )
        )
        for share in (4, 2, 1)
    }
    ray.init(address="local", num_cpus=2, object_store_memory=2**30, log_to_driver=False)
    try:
        graph: dict[int, list[float]] = {share: [] for share in tables}
        kernel, peaks = [], {}
        for _ in range(6):
            started = time.perf_counter()
            expected = sum_packed(bits, N)
            kernel.append(time.perf_counter() - started)
            _graph(tables[4])
            for share, table in tables.items():
                started = time.perf_counter()
                sums, statistics = _graph(table)
                graph[share].append(time.perf_counter() - started)
                peaks.setdefault(share, max(ray.get([_peak.remote() for _ in range(4)])))
            np.testing.assert_array_equal(sums.sums, expected.sums)
    finally:
        ray.shutdown()
    ratios = [g / k for g, k in zip(graph[1][1:], kernel[1:], strict=True)]
    print(
        f"\ngraph: {np.median(ratios):.2f} times the kernel's time ({min(ratios):.2f} to {max(ratios):.2f})"
    )
    print(f"  {statistics.facts()}")
    for share, seconds in graph.items():
        a_row = np.array(seconds[1:]) * share / graph[1][1:]
        print(
            f"  {ROWS // share:,} rows: {np.median(seconds[1:]):.2f} s; time per row {np.median(a_row):.2f}"
            f" ({a_row.min():.2f} to {a_row.max():.2f}) times that of the largest table;"
            f" peak memory of a worker {peaks[share] / 2**20:.0f} MB, size of the latents"
            f" {bits.nbytes / share / 2**20:.0f} MB"
        )


def _graph(table: LatentTable) -> tuple[MomentSums, TaskStatistics]:
    return moment_sums_of(table, scan(table, []).row_groups, (), None, lambda rows: None)


@ray.remote
def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
