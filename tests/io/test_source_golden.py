"""Keys, shards and fingerprints of ordinary sources, as in the first release with latent tables.

Appending goes by keys, resuming by shards, finding finished results by fingerprints. None of them may change
between versions.
"""

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest

from lbae.io.sources.plan import plan
from lbae.io.sources.source import read_shard
from tests.conftest import image_table

MTIME = 1_700_000_000


def folder(root: Path) -> None:
    for name in ("cat/1.png", "cat/2.jpg", "dog/1.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def flat(root: Path) -> None:
    for name in ("_a.png", "b.JPG", "noname"):
        (root / name).write_bytes(name.encode())


def table(root: Path) -> None:
    image_table(root / "data" / "a.parquet", [b"x", b"y", b"z"], row_group_size=2, label=[1, 2, 3])
    image_table(root / "data" / "b.parquet", [b"u", b"v"], label=pa.array([1.0, None]))


def tars(root: Path) -> None:
    members = {"a/1.jpg": b"one", "a/1.cls": b"7", "a/1.json": b"{}", "a/2.cls": b"8", "a/2.png": b"two"}
    with tarfile.open(root / "0.tar", "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


SOURCES = {
    folder: (
        ["cat/1.png", "cat/2.jpg", "dog/1.png"],
        [(2, 0, "cat/1.png"), (1, 2, "dog/1.png")],
        {"label": pa.string()},
        [["cat"], ["cat"], ["dog"]],
        "c19951bbc690ce7767188923386220fb",
    ),
    flat: (
        ["_a.png", "b.JPG", "noname"],
        [(2, 0, "_a.png"), (1, 2, "noname")],
        {},
        [[], [], []],
        "8563758e0de0a8bb7ffaa09ec0c87c9e",
    ),
    table: (
        ["data/a.parquet:0", "data/a.parquet:1", "data/a.parquet:2", "data/b.parquet:0", "data/b.parquet:1"],
        [(2, 0, "data/a.parquet"), (1, 2, "data/a.parquet"), (2, 3, "data/b.parquet")],
        {"label": pa.float64()},
        [[1.0], [2.0], [3.0], [1.0], [None]],
        None,  # the sizes of Parquet files depend on pyarrow's version
    ),
    tars: (
        ["0.tar:a/1", "0.tar:a/2"],
        [(2, 0, "0.tar")],
        {"label": pa.int64()},
        [[7], [8]],
        "9d14a6822b25fce835c4e2a372296b51",
    ),
}


@pytest.mark.parametrize("make", SOURCES)
def test_keys_shards_and_fingerprints_of_ordinary_sources_do_not_change(make, tmp_path, monkeypatch):
    monkeypatch.setattr("lbae.io.sources.plan.ROWS_PER_SHARD", 2)
    keys, cuts, columns, rows, fingerprint = SOURCES[make]
    make(tmp_path)
    paths = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    for path in paths:
        os.utime(path, (MTIME, MTIME))
    source = plan(str(tmp_path))
    read = pa.concat_tables(read_shard(shard) for shard in source.shards)
    assert read["key"].to_pylist() == keys
    assert [(shard.rows, shard.start, shard.files[0]) for shard in source.shards] == cuts
    assert read.drop_columns(["key", "bytes", "path"]).schema == pa.schema(columns)
    assert [list(row.values()) for row in read.select(list(columns)).to_pylist()] == rows
    stamps = [[str(path.relative_to(tmp_path)), path.stat().st_size, f"{MTIME}.0"] for path in paths]
    text = json.dumps(stamps, sort_keys=True).encode()
    digest = hashlib.sha256(len(text).to_bytes(8, "little") + text).hexdigest()[:32]
    assert source.fingerprint == digest
    assert fingerprint in (None, digest)
