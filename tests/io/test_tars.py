from pathlib import Path

import pytest

from lbae.errors import UserError
from lbae.io.sources.plan import plan
from lbae.io.sources.source import read_shard, shard_keys
from tests.conftest import write_tar


@pytest.fixture
def tars(tmp_path) -> Path:
    write_tar(
        tmp_path / "0.tar",
        {"a/1.jpg": b"one", "a/1.cls": b"7", "a/1.json": b"{}", "a/2.cls": b"8"},
    )
    write_tar(tmp_path / "1.tar", {"1.png": b"three", "1.cls": b"9\n", "2.PNG": b"four"})
    return tmp_path


def test_samples_are_rows_with_unique_keys(tars, monkeypatch):
    monkeypatch.setattr("lbae.io.sources.plan.ROWS_PER_SHARD", 1)
    shards = plan(str(tars)).shards
    tables = [read_shard(shard) for shard in shards]
    assert [table["key"][0].as_py() for table in tables] == ["0.tar:a/1", "0.tar:a/2", "1.tar:1", "1.tar:2"]
    assert [table["bytes"][0].as_py() for table in tables] == [
        b"one",
        None,
        b"three",
        b"four",
    ]  # a sample without an image is kept
    assert [table["path"][0].as_py() for table in tables] == ["a/1.jpg", None, "1.png", "2.PNG"]
    assert [table["label"][0].as_py() for table in tables] == [7, 8, 9, None]
    assert [shard_keys(shard).to_pylist() for shard in shards] == [
        table["key"].to_pylist() for table in tables
    ]
    assert [(shard.start, shard.rows) for shard in shards] == [(0, 1), (1, 1), (2, 1), (3, 1)]


def test_a_tar_without_classes_has_no_label(tmp_path):
    write_tar(tmp_path / "x.tar", {"1.png": b"one"})
    assert read_shard(plan(str(tmp_path / "x.tar")).shards[0]).column_names == ["key", "bytes", "path"]


def test_a_damaged_tar_and_a_bad_class_are_named(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"text")
    with pytest.raises(UserError, match=r"x.tar cannot be read as an uncompressed tar"):
        plan(str(tmp_path))
    write_tar(tmp_path / "x.tar", {"1.png": b"one", "1.cls": b"cat"})
    with pytest.raises(
        UserError, match=r"member 1.cls of .*x.tar holds 'cat'; allowed: a 64-bit integer; number the"
    ):
        read_shard(plan(str(tmp_path)).shards[0])


@pytest.mark.parametrize(
    "members",
    [
        [("0.png", b"a"), ("0.cls", b"1"), ("0.png", b"b"), ("0.cls", b"0")],
        [("0.png", b"a"), ("1.png", b"b"), ("0.png", b"a")],
        [("a/0.png", b"a"), ("a/0.PNG", b"b")],
        [("0.png", b"a"), ("0.cls", b"1"), ("0.cls", b"2")],
    ],
)
def test_members_with_the_same_name_are_refused(members, tmp_path):
    write_tar(tmp_path / "x.tar", members)
    with pytest.raises(
        UserError, match=r"x.tar has more than one member .*0\.\w+: some of its images would be lost"
    ):
        plan(str(tmp_path))


@pytest.mark.parametrize("text", [b"cat", b"", b"1.5", b"99999999999999999999", b"\xff"])
def test_a_class_that_is_not_an_integer_is_named(text, tmp_path):
    write_tar(tmp_path / "x.tar", {"1.png": b"one", "1.cls": b"1", "2.png": b"two", "2.cls": text})
    with pytest.raises(UserError, match=r"member 2.cls of .*x.tar holds '.*'; allowed: a 64-bit integer"):
        read_shard(plan(str(tmp_path)).shards[0])


def test_members_that_are_not_read_are_counted(tmp_path):
    others = {
        "1.json": b"{}",
        "1.txt": b"a cat",
        "1.seg.png": b"mask",
        "1.jpg": b"again",
        "__MACOSX/1.png": b"",
    }
    write_tar(tmp_path / "0.tar", {"1.png": b"one", "._1.png": b"", **others})
    write_tar(tmp_path / "1.tar", {"1.png": b"one", "1.json": b"{}"})
    source = plan(str(tmp_path))
    assert source.rows == 2
    assert source.skipped == {".json": 2, ".txt": 1, ".png": 1, ".jpg": 1, "__MACOSX/": 1, "hidden": 1}


def test_links_in_a_tar_have_the_content_of_their_target(tmp_path):
    links = {"hard": "a/1.png", "b/soft": "../a/1.png", "b/later": "lost.png"}
    write_tar(tmp_path / "0.tar", {"a/1.png": b"one"}, **links)
    (shard,) = plan(str(tmp_path)).shards
    found = {row["path"]: row["bytes"] for row in read_shard(shard).to_pylist()}
    assert found == {"a/1.png": b"one", "hard.png": b"one", "b/soft.png": b"one", "b/later.png": b""}


def test_partition_folders_become_columns(tmp_path):
    (tmp_path / "split=train" / "year=2024").mkdir(parents=True)
    write_tar(tmp_path / "split=train" / "year=2024" / "0.tar", {"1.png": b"one", "1.cls": b"3"})
    (row,) = read_shard(plan(str(tmp_path)).shards[0]).to_pylist()
    assert (row["label"], row["split"], row["year"]) == (3, "train", 2024)


@pytest.mark.parametrize(
    ("names", "lost"),
    [
        (
            [f"video.frame{i:04}.png" for i in range(60)],
            "60, the first is video.frame0000.png",
        ),
        (["1.png", "2.seg.png", "2.cls"], "1, the first is 2.seg.png"),
        (["1.png", "photo.v2.JPG"], "1, the first is photo.v2.JPG"),
        (["video", "video.frame0.png"], "1, the first is video.frame0.png"),
    ],
)
def test_images_with_dots_in_their_names_are_refused_not_lost(names, lost, tmp_path):
    write_tar(tmp_path / "x.tar", dict.fromkeys(names, b"1"))
    with pytest.raises(
        UserError, match=rf"x.tar has images that would be lost \({lost}\): .*; rename the images"
    ):
        plan(str(tmp_path))


def test_members_that_cannot_be_images_are_skipped_as_in_folders(tmp_path):
    others = {"LICENSE.txt": b"free", "a/dataset.json": b"{}", "README": b"read"}
    unknown = {"bare": b"two", "3.xyz": b"three"}
    write_tar(tmp_path / "x.tar", {"1.png": b"one", **others, **unknown})
    source = plan(str(tmp_path))
    rows = read_shard(source.shards[0]).select(["key", "bytes"]).to_pylist()
    assert rows == [
        {"key": "x.tar:1", "bytes": b"one"},
        {"key": "x.tar:bare", "bytes": b"two"},
        {"key": "x.tar:3", "bytes": None},
    ]
    assert source.skipped == {".txt": 1, ".json": 1, "no suffix": 1, ".xyz": 1}


def test_a_tar_without_an_end_of_archive_marker_is_refused(tmp_path):
    write_tar(tmp_path / "x.tar", {"1.png": b"one", "2.png": b"two"})
    whole = (tmp_path / "x.tar").read_bytes()
    for cut in (1024, 2048):  # a member is a header and a block
        (tmp_path / "x.tar").write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"x.tar has no end-of-archive marker .*: it may be cut short"):
            plan(str(tmp_path))
    (tmp_path / "x.tar").write_bytes(whole[:1024] + b"?" * 1024 + whole[2048:])
    with pytest.raises(UserError, match=r"no end-of-archive marker after 1 members, at byte 1,024"):
        plan(str(tmp_path))
