"""A load generator: ``python -m tests.benchmarks.load URL CONCURRENCY N COUNT``.

It sends COUNT requests for N samples each, and prints throughput and latencies as JSON.
"""

import asyncio
import itertools
import json
import sys
import time

import httpx
import numpy as np


async def load(url: str, concurrency: int, n: int, count: int) -> dict[str, float]:
    """Send requests with different seeds, ``concurrency`` at a time.

    Returns:
        Images per second, and percentiles of the latency in milliseconds.
    """
    spent: list[float] = []
    seeds = itertools.count()
    async with httpx.AsyncClient(timeout=120) as client:

        async def worker() -> None:
            while (seed := next(seeds)) < count:
                started = time.perf_counter()
                (await client.post(url, json={"n": n, "seed": seed})).raise_for_status()
                spent.append(time.perf_counter() - started)

        started = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(concurrency)))
        total = time.perf_counter() - started
    p50, p95, p99 = (round(1000 * float(value), 1) for value in np.percentile(spent, [50, 95, 99]))
    return {"images_per_second": round(count * n / total, 1), "p50": p50, "p95": p95, "p99": p99}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(load(sys.argv[1], *map(int, sys.argv[2:])))))
