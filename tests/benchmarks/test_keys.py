"""The join of keys for ``encode --append``, and of digests for ``ingest --distinct``, on synthetic rows.

``LBAE_BENCH_KEYS`` sets another number of rows of the source. Half of them are known, or equal earlier ones.
Memory is the resident memory of a process without what it shares.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from lbae.distributed.digests.repeated_rows import RepeatedRows
from lbae.distributed.encode.known_rows import known_rows
from lbae.io.artifacts.latent_table import KIND, LatentTable, open_latent_table
from lbae.io.artifacts.output import Output
from lbae.io.sources.source import Shard

PART, SHARD = 2**20, 2**11
PAIRS = int(os.environ.get("LBAE_BENCH_KEYS", 4_000_000)) // (2 * SHARD)
KEYS = PAIRS * 2 * SHARD
FILE = "part-00000.parquet"


def private_mb(process: psutil.Process) -> int:
    memory = process.memory_info()
    return (memory.rss - memory.shared) >> 20


@contextmanager
def measured(name: str) -> Iterator[None]:
    """Print the seconds, the growth of the driver's memory, and the most memory of another process."""
    driver, ended = psutil.Process(), threading.Event()
    before, started, most = private_mb(driver), time.perf_counter(), {"driver": 0, "task": 0}

    def watch() -> None:
        while not ended.wait(0.1):
            most["driver"] = max(most["driver"], private_mb(driver))
            for process in driver.children(recursive=True):
                with suppress(psutil.Error):
                    if process.name().startswith("ray::"):
                        most["task"] = max(most["task"], private_mb(process))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        ended.set()
        watching.join()
    print(
        f"\n{name}, {KEYS:,} rows: {time.perf_counter() - started:.1f} s; the driver has {before} MB before"
        f" and at most {most['driver']} MB, a task at most {most['task']} MB"
    )


def table_of_keys(folder: Path) -> LatentTable:
    """A latent table with the keys of the first half of the rows."""
    metadata, files = {"lbae.model_fingerprint": "m"}, []
    for first in range(0, KEYS // 2, PART):
        rows = np.arange(first, min(first + PART, KEYS // 2))
        keys = pc.binary_join_element_wise(FILE, pa.array(rows).cast(pa.string()), ":")
        latents = pa.array([b"\1"] * len(rows), pa.binary(1))
        files.append(f"data/part-{len(files):05d}.parquet")
        (folder / "data").mkdir(parents=True, exist_ok=True)
        part = pa.table({"key": keys, "latent": latents}).replace_schema_metadata(metadata)
        pq.write_table(part, folder / files[-1], compression="zstd")
    output = Output(str(folder), KIND, parents={"model": "m"}, config={"latent_dim": 8})
    output.publish(fingerprint="f", rows=KEYS // 2, files=files, result={})
    return open_latent_table(str(folder))


def shards_of_keys() -> tuple[Shard, ...]:
    return tuple(
        Shard(
            root="/data",
            rows=SHARD,
            size=0,
            files=(FILE,),
            columns=pa.schema([]),
            start=first,
            row_groups=(first // SHARD,),
            first_row=first,
        )
        for first in range(0, KEYS, SHARD)
    )


def half_marked(bits: np.ndarray) -> bool:
    return int(np.bitwise_count(bits).sum()) == KEYS // 2


def test_keys_known_to_a_table(tmp_path: Path) -> None:
    table, shards = table_of_keys(tmp_path / "table"), shards_of_keys()
    ray.init(address="local", num_cpus=2, object_store_memory=2**30, log_to_driver=False)
    with measured("append"):
        repeated = RepeatedRows(KEYS, known=KEYS // 2)
        assert half_marked(known_rows(shards, table, repeated, lambda: None))
    ray.shutdown()


def test_equal_images() -> None:
    """Digests drawn at random in the driver stand for those that tasks return."""
    ray.init(address="local", num_cpus=2, object_store_memory=2**30, log_to_driver=False)
    with measured("distinct"):
        repeated = RepeatedRows(KEYS, distinct=True)
        for shard in range(2 * PAIRS):
            rng = np.random.default_rng(shard % PAIRS)
            words = rng.integers(0, 2**64, (SHARD, 2), dtype=np.uint64)
            repeated.add(words.view("S16")[:, 0], shard * SHARD)
        assert half_marked(repeated.left_out(lambda: None))
    ray.shutdown()
