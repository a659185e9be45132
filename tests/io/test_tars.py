import io
import random
import tarfile
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


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A member's header that claims a size, negative or larger than 8 GiB in base 256."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    block[148:156] = b"%06o\0 " % (256 + sum(block[:148]) + sum(block[156:512]))
    return bytes(block)


SPARSE, PAX = tarfile.GNUTYPE_SPARSE, b"21 GNU.sparse.map=a,\n"
GLOBAL = tarfile.TarInfo.create_pax_global_header({"a": "b" * 5000})
END = bytes(1024)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header("1.png", -512), "member 1.png of .* is of -512 bytes; write the tar without it"),
        (header("1.png", 0) + header("2.png", -512), "member 2.png of .* is of -512 bytes"),
        (header("1.png", 0, SPARSE) + END, "member 1.png of .* is a sparse file"),
        (header("1.png", 2**40), "unexpected end of data"),
        (header("a", 2**40, tarfile.XHDTYPE), "a member's headers exceed 131072 bytes; allowed: as many"),
        (header("a", 2**40, tarfile.GNUTYPE_LONGNAME), "a member's headers exceed 131072 bytes"),
        ((header("a", 1, tarfile.GNUTYPE_LONGNAME) + bytes(512)) * 2000, "a member's headers exceed"),
        (GLOBAL + header("1.png", 0), "a global pax header of 5001 characters; allowed: 4096"),
        (header("a", 2**14, tarfile.XHDTYPE) + b"1" * 2**14 + header("1.png", 0), "a number of 256 digits"),
        (header("a", 21, tarfile.XHDTYPE) + PAX.ljust(512, b"\0") + header("1.png", 0), "invalid literal"),
    ],
)
def test_a_hostile_header_is_refused(data, message, tmp_path):
    (tmp_path / "x.tar").write_bytes(data + END)
    with pytest.raises(UserError, match=message):
        plan(str(tmp_path))


def test_pax_headers_of_archivers_are_read(tmp_path):
    """As git and bsdtar write them: one for all members, and one for a long name."""
    name, content = f"{'1' * 255}/{'x' * 200}.png", io.BytesIO(b"one")
    with tarfile.open(
        tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "f" * 40}
    ) as tar:
        info = tarfile.TarInfo(name)
        info.size, info.pax_headers = 3, {"SCHILY.xattr.a": "b" * 2**16}
        tar.addfile(info, content)
    assert read_shard(plan(str(tmp_path)).shards[0]).select(["path", "bytes"]).to_pylist() == [
        {"path": name, "bytes": b"one"}
    ]


def test_a_tar_with_changed_bytes_is_read_within_its_bytes_or_refused(tmp_path):
    names = {"a/1.png": b"one" * 300, "a/1.cls": b"7", "x" * 150 + ".png": b"two", "3.jpg": bytes(2000)}
    write_tar(tmp_path / "x.tar", names, hard="a/1.png")
    valid, rng, outcomes = (tmp_path / "x.tar").read_bytes(), random.Random(0), set()
    for _ in range(300):
        data = bytearray(valid)
        for at in rng.choices(range(len(data)), k=rng.choice((1, 4, 30))):
            data[at] = rng.choice((0, 48, 55, 128, 255, rng.randrange(256)))
        for start in range(0, len(data), 512):  # right checksums, where there are any
            if data[start + 257 : start + 262] == b"ustar" and rng.random() < 0.9:
                block = data[start : start + 512]
                total = 256 + sum(block[:148]) + sum(block[156:])
                data[start + 148 : start + 156] = b"%06o\0 " % total
        (tmp_path / "x.tar").write_bytes(data)
        try:
            rows = [row for shard in plan(str(tmp_path)).shards for row in read_shard(shard).to_pylist()]
        except UserError as error:
            outcomes.add(str(error).partition("x.tar")[2][:30])
        else:
            outcomes.add("read")
            assert all(len(row["bytes"] or b"") <= len(valid) for row in rows)
    assert "read" in outcomes
    assert len(outcomes) > 2


def test_nothing_of_a_tar_is_written_or_opened_as_a_tar(tmp_path):
    """Names are keys, whatever they say, and a tar inside a tar is no image."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("inner.png"))
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    names = ["../1.png", "../../2.png", f"{tmp_path}/3.png", "c\\4.png"]
    write_tar(folder / "x.tar", dict.fromkeys(names, b"one") | {"5.tar": inner.getvalue()})
    (shard,) = plan(str(folder)).shards
    rows = read_shard(shard).to_pylist()
    assert [row["path"] for row in rows] == [*names, None]
    assert [row["bytes"] for row in rows] == [b"one"] * 4 + [None]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [folder / "x.tar"]


def test_a_link_repeats_no_more_bytes_than_a_shard_may_have(tmp_path, monkeypatch):
    monkeypatch.setattr("lbae.io.sources.plan.BYTES_PER_SHARD", 5000)
    write_tar(tmp_path / "x.tar", {"1.png": bytes(2000)}, **{f"link{index}": "1.png" for index in range(9)})
    assert [shard.rows for shard in plan(str(tmp_path)).shards] == [2] * 5


def test_a_class_of_many_bytes_is_not_read(tmp_path):
    write_tar(tmp_path / "x.tar", {"1.png": b"one", "1.cls": b"7" + b" " * 10**6})
    with pytest.raises(UserError, match=r"member 1.cls of .*x.tar holds '7 +'; allowed: a 64-bit integer"):
        read_shard(plan(str(tmp_path)).shards[0])
