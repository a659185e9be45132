"""The start of resident workers, compared with workers that read the whole source and keep every W-th row.

Bytes are those of the processes' read calls. On a local disk reading costs little; over a network the bytes
are the time.
"""

import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lbae.config import ModelConfig
from lbae.io.images import encode_image
from lbae.io.sources.decode import decode_rows
from lbae.io.sources.hashes import held_out
from lbae.io.sources.plan import plan
from lbae.io.sources.share import decode_share
from lbae.io.sources.source import Source, read_batches

MODEL = ModelConfig(latent_grid=8, image_size=64, channels=(8, 8, 8), latent_dim=64)
IMAGES, SIDE, ROUNDS = 6_000, 96, 5


def table(folder: Path, row_group: int) -> str:
    """JPEG files of noise, some 5 kB each, in two files."""
    rng = np.random.default_rng(0)
    cells = [
        encode_image(rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8), "jpeg") for _ in range(200)
    ] * (IMAGES // 200)
    for number in range(2):
        rows = pa.array(cells[number::2], pa.binary())
        pq.write_table(pa.table({"image": rows}), folder / f"{number}.parquet", row_group_size=row_group)
    return str(folder)


def every_other_row(source: Source, worker: int, workers: int) -> None:
    """The start as it was before: all row groups are read, and one thread decodes."""
    for shard in source.shards:
        mine = (shard.start + np.arange(shard.rows)) % workers == worker
        for rows in read_batches(shard.reading(mine)):
            held_out(decode_rows(rows, MODEL).rows["key"])


def read_so_far() -> int:
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


def start(uri: str, worker: int, workers: int, before: bool, barrier: Barrier, results: object) -> None:
    source = plan(uri)
    barrier.wait()
    read, started = read_so_far(), time.perf_counter()
    if before:
        every_other_row(source, worker, workers)
    else:
        decode_share(source, MODEL, worker, workers, threads=1)
    results.put((time.perf_counter() - started, read_so_far() - read))


def run(uri: str, workers: int, before: bool) -> tuple[float, int]:
    """Seconds until the last worker has its images, and bytes that all workers read."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(workers), context.Queue()
    each = [
        context.Process(target=start, args=(uri, worker, workers, before, barrier, results))
        for worker in range(workers)
    ]
    for process in each:
        process.start()
    found = [results.get(timeout=600) for _ in each]
    for process in each:
        process.join()
    return max(seconds for seconds, _ in found), sum(read for _, read in found)


def pairs(uri: str, workers: int) -> Iterator[tuple[float, float]]:
    """Ratios, now over before, of seconds and of bytes."""
    for number in range(ROUNDS):
        order = (True, False) if number % 2 else (False, True)
        found = {before: run(uri, workers, before) for before in order}
        yield found[False][0] / found[True][0], found[False][1] / found[True][1]


@pytest.mark.parametrize("row_group", [100, IMAGES])
@pytest.mark.parametrize("workers", [2, 4])
def test_start_of_resident_workers(tmp_path, row_group, workers):
    uri = table(tmp_path, row_group)
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    _, read = run(uri, workers, before=False)
    seconds, of_bytes = zip(*pairs(uri, workers), strict=True)
    print(
        f"\n{workers} workers, row groups of {row_group}: {read / size:.2f} of the source's bytes are read,"
        f" {median(of_bytes):.2f} of before; seconds {median(seconds):.2f} of before"
        f" ({min(seconds):.2f} to {max(seconds):.2f})"
    )
