"""Workers share the rows of a source evenly, and read it once."""

import io
import itertools
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from lbae.config import ModelConfig
from lbae.io.images import encode_png
from lbae.io.sources.dealing import deal
from lbae.io.sources.hashes import held_out
from lbae.io.sources.plan import plan
from lbae.io.sources.share import decode_held_out, decode_share
from lbae.io.sources.source import Shard, read_batches, shard_keys
from tests.conftest import image_table

GREY = ModelConfig(image_size=32, padding=2, image_channels=1)


def numbers(shards: tuple[Shard, ...]) -> list[int]:
    """Numbers in the source of the rows that are read."""
    return [shard.start + row for shard in shards for row in np.flatnonzero(shard.wanted).tolist()]


def table_of(folder: Path, files: list[int], row_group: int) -> str:
    """An image table of dark to bright grey images."""
    value = itertools.count()
    for number, rows in enumerate(files):
        cells = [encode_png(np.full((28, 28, 1), next(value) % 256, dtype=np.uint8)) for _ in range(rows)]
        image_table(folder / f"{number}.parquet", cells, row_group_size=row_group)
    return str(folder)


def source_of(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if kind == "files":
        return str(request.getfixturevalue("folder_of_images"))
    return table_of(tmp_path, [350, 250], {"small row groups": 10, "a row group per file": 1000}[kind])


@pytest.mark.parametrize("kind", ["small row groups", "a row group per file", "files"])
@pytest.mark.parametrize("workers", [1, 2, 7])
@pytest.mark.parametrize("most", [10, 2048])
def test_every_row_is_in_one_share_and_shares_are_equal(request, tmp_path, monkeypatch, kind, workers, most):
    monkeypatch.setattr("lbae.io.sources.plan.ROWS_PER_SHARD", most)
    planned = plan(source_of(kind, tmp_path, request))
    shares = [numbers(deal(planned.shards, worker, workers)) for worker in range(workers)]
    assert sorted(itertools.chain(*shares)) == list(range(planned.rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert shares[-1] == numbers(deal(plan(planned.uri).shards, workers - 1, workers)), "the same on resume"


@pytest.mark.parametrize("most", [10, 2048])
def test_a_share_comes_from_all_over_the_source(tmp_path, monkeypatch, most):
    monkeypatch.setattr("lbae.io.sources.plan.ROWS_PER_SHARD", most)
    planned = plan(table_of(tmp_path, [1000], 1000))
    for worker in range(3):
        quarters = np.bincount(np.array(numbers(deal(planned.shards, worker, 3))) // 250)
        assert quarters.min() > 0.5 * quarters.max()


def test_the_rows_that_are_read_are_those_of_the_share(tmp_path, monkeypatch):
    monkeypatch.setattr("lbae.io.sources.plan.ROWS_PER_SHARD", 100)
    planned = plan(table_of(tmp_path, [130, 70], 40))
    for worker in range(3):
        for shard in deal(planned.shards, worker, 3):
            read = pa.concat_tables(read_batches(shard))
            rows = numbers((shard,))
            keys = [f"0.parquet:{row}" if row < 130 else f"1.parquet:{row - 130}" for row in rows]
            assert read["key"].to_pylist() == keys
            assert [data["bytes"] for data in read.select(["bytes"]).to_pylist()] == [
                encode_png(np.full((28, 28, 1), row, dtype=np.uint8)) for row in rows
            ]


@pytest.mark.parametrize("threads", [1, 3])
def test_decoded_shares_are_in_order_and_split_by_held_out(tmp_path, threads):
    planned = plan(table_of(tmp_path, [240], 10))
    is_unseen = held_out(pa.concat_arrays([shard_keys(shard) for shard in planned.shards]))
    for worker in range(2):
        share = decode_share(planned, GREY, worker, 2, threads)
        rows = np.array(numbers(deal(planned.shards, worker, 2)))
        assert share.trained[:, 0, 0, 0].tolist() == rows[~is_unseen[rows]].tolist()
        assert share.held_out[:, 0, 0, 0].tolist() == rows[is_unseen[rows]].tolist()
        assert share.bad == 0


def test_a_worker_may_get_no_rows_and_every_image_may_be_bad(tmp_path):
    image_table(tmp_path / "a.parquet", [b"no image"])
    shares = [decode_share(plan(str(tmp_path)), GREY, worker, 2, 1) for worker in range(2)]
    assert sorted(share.bad for share in shares) == [0, 1]
    assert all(share.trained.shape == share.held_out.shape == (0, 28, 28, 1) for share in shares)


def test_held_out_images_are_spread_over_a_sorted_source(tmp_path, monkeypatch):
    monkeypatch.setattr("lbae.io.sources.plan.ROWS_PER_SHARD", 20)
    cells = [encode_png(np.full((28, 28, 1), row * 255 // 600, dtype=np.uint8)) for row in range(600)]
    names = [f"a.parquet:{row}" for row in range(600)]
    broken = int(np.flatnonzero(held_out(pa.array(names)))[0])
    cells[broken] = b"no image"
    image_table(tmp_path / "a.parquet", cells, row_group_size=20)
    planned = plan(str(tmp_path))
    found = [decode_held_out(planned, GREY, worker, 2, 5, 1) for worker in (0, 1)]
    values = np.concatenate([share.held_out[:, 0, 0, 0] for share in found])
    assert all(not len(share.trained) and len(share.held_out) + share.bad <= 5 for share in found)
    assert 5 <= len(values) <= 10
    assert len(set(values.tolist())) > len(values) / 2, "the workers get different images"
    assert values.min() < 60
    assert values.max() > 160


class Counting(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        Counted.read_bytes += len(data)
        return data


class Counted(MemoryFileSystem):  # type: ignore[misc]
    """Files in memory; ``read_bytes`` counts what is read of them."""

    protocol = "counted"
    store: ClassVar[dict[str, Any]] = {}
    read_bytes = 0

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        opened = super()._open(path, mode, **options)
        return Counting(opened.getvalue()) if mode == "rb" else opened


@pytest.fixture
def counted() -> type[Counted]:
    fsspec.register_implementation("counted", Counted, clobber=True)
    Counted.store.clear()
    return Counted


@pytest.mark.parametrize(
    ("row_group", "shard", "workers", "most"),
    [
        (20, 20, 2, 1.2),
        (20, 20, 4, 1.2),
        (20, 200, 4, 1.2),
        (80, 20, 4, 1.2),
        (2000, 20, 1, 1.1),
        (2000, 20, 2, 2.1),
    ],
)
def test_all_workers_together_read_the_source_once(monkeypatch, counted, row_group, shard, workers, most):
    """A row group that several workers need is read by each of them, but once and not per shard."""
    monkeypatch.setattr("lbae.io.sources.plan.ROWS_PER_SHARD", shard)
    rows, rng = 1280, np.random.default_rng(0)
    cells = [rng.bytes(2**15) for _ in range(rows)]
    with fsspec.open("counted:///data/a.parquet", "wb") as file:
        pq.write_table(pa.table({"image": pa.array(cells, pa.binary())}), file, row_group_size=row_group)
    planned = plan("counted:///data")
    counted.read_bytes = 0
    read = 0
    for worker in range(workers):
        for mine in deal(planned.shards, worker, workers):
            read += sum(map(len, read_batches(mine)))
    assert read == rows
    assert 1 <= counted.read_bytes / (rows * 2**15) < most
