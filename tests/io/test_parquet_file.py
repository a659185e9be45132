"""Errors name the Parquet file that cannot be read, whatever is wrong with it."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lbae.errors import TransientStorageError, UserError
from lbae.io.storage.location import resolve
from lbae.io.storage.parquet_file import open_parquet
from tests.s3_server import refusing_server

TABLE = pa.table({"x": np.random.default_rng(0).integers(0, 2**60, 200_000)})


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no Parquet"),
        lambda path: path.write_bytes(path.read_bytes()[:-9]),
        lambda path: path.write_bytes(path.read_bytes()[9:]),
        flip,
    ],
    ids=["missing", "empty", "text", "cut at its end", "cut at its start", "a flipped bit"],
)
def test_a_missing_or_damaged_file_raises_a_user_error(tmp_path, damage):
    path = tmp_path / "a.parquet"
    pq.write_table(TABLE, path, write_page_checksum=True)
    damage(path)
    with (
        pytest.raises(UserError, match=rf"{re.escape(str(path))} cannot be read as Parquet: "),
        open_parquet(resolve(str(path))) as file,
    ):
        file.read()


def test_a_storage_that_stops_answering_during_a_read_raises_a_transient_error(s3, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with refusing_server(monkeypatch) as server:
        location = resolve("s3://bucket/a.parquet")
        with location.fs.open(location.path, "wb") as file:
            pq.write_table(TABLE, file)
        monkeypatch.setattr(location.fs, "retries", 1)

        def read() -> None:
            with open_parquet(location) as parquet:
                server.refusals = 10**6
                parquet.read()

        message = r"^s3://bucket/a.parquet cannot be read as Parquet: "
        with pytest.raises(TransientStorageError, match=message):
            read()
