import io
import tarfile
from pathlib import Path

import pytest

from lbae.errors import LbaeError, UserError
from lbae.io.sources.plan import plan
from lbae.io.sources.source import read_shard, shard_keys


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def tars(tmp_path) -> Path:
    write_tar(
        tmp_path / "0.tar",
        {"a/1.jpg": b"one", "a/1.cls": b"7", "a/1.json": b"{}", "a/2.cls": b"8", "a/2.seg.png": b"no"},
    )
    write_tar(tmp_path / "1.tar", {"1.png": b"three", "1.cls": b"9\n", "2.PNG": b"four"})
    return tmp_path


def test_samples_are_rows_with_keys_of_their_own(tars, monkeypatch):
    monkeypatch.setattr("lbae.io.sources.plan.ROWS_PER_SHARD", 1)
    shards = plan(str(tars)).shards
    tables = [read_shard(shard) for shard in shards]
    assert [table["key"][0].as_py() for table in tables] == ["0.tar:a/1", "0.tar:a/2", "1.tar:1", "1.tar:2"]
    assert [table["bytes"][0].as_py() for table in tables] == [
        b"one",
        None,
        b"three",
        b"four",
    ]  # what has no image is kept
    assert [table["path"][0].as_py() for table in tables] == ["a/1.jpg", None, "1.png", "2.PNG"]
    assert [table["label"][0].as_py() for table in tables] == [7, 8, 9, None]
    assert [shard_keys(shard).to_pylist() for shard in shards] == [
        table["key"].to_pylist() for table in tables
    ]
    assert [(shard.start, shard.rows) for shard in shards] == [(0, 1), (1, 1), (2, 1), (3, 1)]


def test_a_tar_without_classes_has_no_label(tmp_path):
    write_tar(tmp_path / "x.tar", {"1.png": b"one"})
    assert read_shard(plan(str(tmp_path / "x.tar")).shards[0]).column_names == ["key", "bytes", "path"]


def test_what_is_no_tar_or_no_class_is_named(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"text")
    with pytest.raises(UserError, match=r"x.tar cannot be read as an uncompressed tar"):
        plan(str(tmp_path))
    write_tar(tmp_path / "x.tar", {"1.png": b"one", "1.cls": b"cat"})
    with pytest.raises(
        LbaeError, match=r"member 1.cls of .*x.tar holds 'cat'; allowed: a whole number of 64 bits"
    ):
        read_shard(plan(str(tmp_path)).shards[0])
