"""The join in Ray tasks finds the rows that sets of keys find, in any order and in bounded buckets."""

import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from lbae.distributed.digests import repeated_rows
from lbae.distributed.digests.repeated_rows import RepeatedRows
from lbae.distributed.encode.known_rows import known_rows
from lbae.errors import UserError
from lbae.io.artifacts.latent_table import open_latent_table
from lbae.io.sources.hashes import key_digests
from lbae.io.sources.plan import plan
from lbae.io.storage.parquet_file import write_parquet
from lbae.io.storage.row_digests import KNOWN
from tests.conftest import image_table, write_latents

ROWS = 60


@pytest.fixture
def few_rows(monkeypatch):
    """Hand digests on after 16 rows, to buckets of about 10 rows."""
    monkeypatch.setattr(repeated_rows, "HELD_ROWS", 16)
    monkeypatch.setattr(repeated_rows, "_BUCKET_ROWS", 10)


def unlocked() -> None:
    """A lock that is still held."""


def found(repeated: RepeatedRows, rows: int = ROWS) -> list[int]:
    bits = repeated.left_out(unlocked)
    return np.flatnonzero(np.unpackbits(bits, count=rows, bitorder="little")).tolist()


def left_out(
    keys: list[str], known: list[str], distinct: bool, order: random.Random
) -> tuple[bool, list[int]]:
    """Whether Ray was needed, and the rows that are left out."""
    repeated = RepeatedRows(len(keys), known=len(known), distinct=distinct)
    runs = [(known[i : i + 7], KNOWN) for i in range(0, len(known), 7)]
    runs += [(keys[i : i + 7], i) for i in range(0, len(keys), 7)]
    order.shuffle(runs)
    for some, first in runs:
        repeated.add(key_digests(pa.array(some, pa.string())), first)
    return repeated.needs_ray, found(repeated, len(keys))


@pytest.mark.parametrize("distinct", [False, True])
def test_tasks_find_what_one_process_finds(ray_session, monkeypatch, distinct):
    order = random.Random(0)
    keys, known = ([f"é{order.randrange(80)}" for _ in range(ROWS)] for _ in range(2))
    here = left_out(keys, known, distinct, order)
    seen = set(known)
    expected = [
        row for row, key in enumerate(keys) if key in seen or (distinct and key in keys[:row])
    ]  # by sets of strings
    assert here == (False, expected)
    monkeypatch.setattr(repeated_rows, "HELD_ROWS", 16)
    for rows in (10, 1000):
        monkeypatch.setattr(repeated_rows, "_BUCKET_ROWS", rows)
        assert left_out(keys, known, distinct, order) == (True, expected), f"buckets of {rows} rows"


def test_a_source_of_equal_images_fills_no_bucket(ray_session, few_rows):
    repeated = RepeatedRows(ROWS, distinct=True)
    for row in range(ROWS):
        repeated.add(np.array([b"the same image.."], dtype="S16"), row)
    handed_on = sum(len(ray.get(piece)) for pieces in repeated._pieces for piece in pieces)
    assert handed_on == ROWS // 16, "one row per run that the driver held"
    assert found(repeated) == list(range(1, ROWS))


@pytest.fixture
def table(tmp_path):
    """A latent table with the keys of every other row of the source beside it."""
    image_table(tmp_path / "data" / "k.parquet", [b"x"] * ROWS, row_group_size=7)
    uri = write_latents(tmp_path / "latents", np.ones((30, 8), dtype=np.int8), parts=2)
    for index, name in enumerate(open_latent_table(uri).parts):
        part = pq.read_table(f"{uri}/{name}")
        keys = pa.array([f"k.parquet:{2 * row}" for row in range(15 * index, 15 * index + len(part))])
        write_parquet(uri, name, part.set_column(0, "key", keys))
    return open_latent_table(uri)


def test_keys_are_read_and_joined_in_tasks(ray_session, few_rows, table, tmp_path, caplog):
    caplog.set_level("INFO")
    shards, repeated = plan(str(tmp_path / "data")).shards, RepeatedRows(ROWS, known=30)
    assert repeated.needs_ray
    bits = known_rows(shards, table, repeated, unlocked)
    rows = np.flatnonzero(np.unpackbits(bits, count=ROWS, bitorder="little"))
    assert rows.tolist() == list(range(0, ROWS, 2))
    assert any("compare: 90 of 90 keys" in message for message in caplog.messages)


def test_a_damaged_part_is_named(ray_session, few_rows, table, tmp_path):
    (tmp_path / "latents" / table.parts[1]).write_bytes(b"no table")
    with pytest.raises(UserError, match=rf"{table.parts[1]} cannot be read as Parquet"):
        known_rows(plan(str(tmp_path / "data")).shards, table, RepeatedRows(ROWS, known=30), unlocked)
