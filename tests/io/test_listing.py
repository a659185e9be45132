"""A source is read completely or refused; files that are left out are counted."""

import io
import os
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbae.errors import UserError
from lbae.io.images import encode_png
from lbae.io.sources.plan import plan
from lbae.io.sources.source import read_shard
from tests.conftest import image_table

PICTURE = encode_png(np.zeros((8, 8, 1), dtype=np.uint8))


def write(root: Path, *names: str, data: bytes = PICTURE) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def pack(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(PICTURE)
            tar.addfile(info, io.BytesIO(PICTURE))


def rows(uri: Path, kind=None) -> list[dict]:
    return [row for shard in plan(str(uri), kind).shards for row in read_shard(shard).to_pylist()]


def labels(uri: Path) -> dict[str, str | None]:
    return {row["key"]: row.get("label") for row in rows(uri)}


@pytest.mark.parametrize(
    "name",
    [
        "LICENSE",
        "LICENSE.txt",
        "README.md",
        "Thumbs.db",
        "a/Thumbs.db",
        "desktop.ini",
        "labels.csv",
        "a/0.txt",
        "a/0.json",
        "a/0.caption",
        "images.zip",
        "__MACOSX/a/0.png",
    ],
)
def test_files_that_cannot_be_images_are_counted_and_do_not_change_labels(name, tmp_path):
    write(tmp_path, "a/0.png", "b/0.png")
    plain = plan(str(tmp_path))
    write(tmp_path, name, data=b"no image")
    source = plan(str(tmp_path))
    assert labels(tmp_path) == {"a/0.png": "a", "b/0.png": "b"}
    assert source.skipped.total() == 1
    assert source.skipped_result["skipped"].keys() == source.skipped.keys()
    assert (source.fingerprint, plain.skipped_result) == (plain.fingerprint, {})


def test_hidden_files_and_folders_are_counted(tmp_path):
    write(tmp_path, "a/0.png", "a/.DS_Store", "a/._0.png", ".cache/0.png", ".cache/1.png")
    assert plan(str(tmp_path)).skipped == {"hidden": 3}
    assert labels(tmp_path) == {"a/0.png": "a"}


def test_files_that_may_be_images_are_read(tmp_path):
    write(tmp_path, "a/0.png", "a/1", "a/2.photo")
    write(tmp_path, "a/3.dat", data=b"no image")
    assert list(labels(tmp_path)) == ["a/0.png", "a/1", "a/2.photo", "a/3.dat"]
    assert plan(str(tmp_path)).skipped == {}


def test_an_image_beside_class_folders_has_no_label(tmp_path):
    write(tmp_path, "a/0.png", "b/0.png", "0.png")
    assert labels(tmp_path) == {"0.png": None, "a/0.png": "a", "b/0.png": "b"}


@pytest.mark.parametrize(
    "names", [("train", "val"), ("Train", "Test"), ("training", "validation", "testing")]
)
def test_split_folders_become_a_column_and_class_folders_the_label(names, tmp_path):
    for name in names:
        write(tmp_path, f"{name}/cat/0.png", f"{name}/dog/0.png", f"{name}/0.png")
    found = {row["key"]: (row["split"], row["label"]) for row in rows(tmp_path)}
    for name in names:
        assert found[f"{name}/cat/0.png"] == (name, "cat")
        assert found[f"{name}/0.png"] == (name, None)


def test_a_class_may_be_called_train_and_splits_may_have_no_classes(tmp_path):
    write(tmp_path / "vehicles", "train/0.png", "ship/0.png")
    assert labels(tmp_path / "vehicles") == {"ship/0.png": "ship", "train/0.png": "train"}
    write(tmp_path / "splits", "train/0.png", "test/0.png")
    assert plan(str(tmp_path / "splits")).columns == ["split"]


def test_links_to_folders_are_followed(tmp_path):
    write(tmp_path / "real", "a/0.png", "a/deep/1.png")
    write(tmp_path / "data", "c/0.png")
    (tmp_path / "data" / "a").symlink_to(tmp_path / "real" / "a")
    (tmp_path / "data" / "b").symlink_to("../real/a")
    (tmp_path / "data" / "c" / "1.png").symlink_to(tmp_path / "real" / "a" / "0.png")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    expected = {
        f"{label}/{name}": label for label, name in [(x, y) for x in "ab" for y in ("0.png", "deep/1.png")]
    }
    expected |= {"c/0.png": "c", "c/1.png": "c"}
    for root in (tmp_path / "data", tmp_path / "link"):
        assert labels(root) == expected
        assert plan(str(root)).skipped == {}
    assert all(row["bytes"] == PICTURE for row in rows(tmp_path / "data"))


def test_circular_links_are_counted_and_followed_once(tmp_path):
    write(tmp_path / "data", "a/0.png", "b/0.png")
    (tmp_path / "data" / "a" / "here").symlink_to(".")
    (tmp_path / "data" / "a" / "up").symlink_to("..")
    (tmp_path / "data" / "a" / "above").symlink_to(tmp_path)
    (tmp_path / "data" / "b" / "a").symlink_to("../a")
    source = plan(str(tmp_path / "data"))
    assert list(labels(tmp_path / "data")) == ["a/0.png", "b/0.png", "b/a/0.png"]
    assert source.skipped == {"links to a folder above": 6}


def test_a_dangling_link_is_a_bad_image_and_a_pipe_is_not_opened(tmp_path):
    write(tmp_path, "0.png")
    (tmp_path / "1.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "2.png")
    assert [(row["key"], row["bytes"]) for row in rows(tmp_path)] == [("0.png", PICTURE), ("1.png", None)]
    assert plan(str(tmp_path)).skipped == {"no regular files": 1}


@pytest.mark.parametrize("name", ["1.png", "1", "1.parquet"])
def test_links_to_pipes_and_devices_are_counted_and_not_opened(name, tmp_path):
    write(tmp_path / "data", "0.png")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "data" / name).symlink_to(tmp_path / "pipe")
    (tmp_path / "data" / "2.png").symlink_to("/dev/null")
    source = plan(str(tmp_path / "data"))
    assert source.skipped == {"no regular files": 2}
    assert list(labels(tmp_path / "data")) == ["0.png"]


def test_a_file_that_has_become_a_device_since_the_listing_is_a_bad_image(tmp_path):
    write(tmp_path, "0.png", "1.png")
    (shard,) = plan(str(tmp_path)).shards
    (tmp_path / "1.png").unlink()
    (tmp_path / "1.png").symlink_to("/dev/null")
    assert read_shard(shard)["bytes"].to_pylist() == [PICTURE, None]


def test_links_that_fan_out_are_followed_a_limited_number_of_times(tmp_path):
    for level in range(10):
        (tmp_path / "data" / f"{level}").mkdir(parents=True)
        for name in "ab"[: 2 * (level < 9)]:
            (tmp_path / "data" / f"{level}" / name).symlink_to(f"../{level + 1}")
    write(tmp_path / "data", "9/0.png")
    source = plan(str(tmp_path / "data"))
    assert source.rows == 65  # without a limit, 2**10 - 1
    assert "9/0.png" in labels(tmp_path / "data")
    assert source.skipped["folders that many links lead to"] > 0


def test_a_name_that_is_not_utf_8_is_read_and_its_bytes_are_escaped_in_the_key(tmp_path):
    folder = os.fsencode(tmp_path / "caf") + b"\xe9"
    os.mkdir(folder)
    Path(os.fsdecode(folder), os.fsdecode(b"\xff.png")).write_bytes(PICTURE)
    (row,) = rows(tmp_path)
    assert row == {
        "key": r"caf\xe9/\xff.png",
        "bytes": PICTURE,
        "path": r"caf\xe9/\xff.png",
        "label": r"caf\xe9",
    }
    write(tmp_path, r"caf\xe9/\xff.png")
    with pytest.raises(UserError, match=r"two files of .* have the same name once bytes .*rename one"):
        plan(str(tmp_path))


def test_tables_and_tars_may_have_names_that_are_not_utf_8(tmp_path):
    image_table(tmp_path / "t" / "a.parquet", [PICTURE])
    os.rename(tmp_path / "t" / "a.parquet", tmp_path / "t" / os.fsdecode(b"\xe9.parquet"))
    pack(tmp_path / "w" / "0.tar", os.fsdecode(b"caf\xe9.png"))
    assert [row["key"] for row in rows(tmp_path / "t")] == [r"\xe9.parquet:0"]
    assert [(row["key"], row["path"]) for row in rows(tmp_path / "w")] == [(r"0.tar:caf\xe9", r"caf\xe9.png")]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("backup.tar", r"1 tar file \(backup.tar\) and 2 image files \(a/0.png\)"),
        ("old.parquet", r"1 Parquet file \(old.parquet\) and 2 image files \(a/0.png\)"),
    ],
)
def test_images_beside_a_tar_or_a_table_of_images_are_refused_and_named(other, message, tmp_path):
    write(tmp_path, "a/0.png", "b/0.png")
    if other.endswith("tar"):
        pack(tmp_path / other, "0.png")
    else:
        image_table(tmp_path / other, [PICTURE])
    with pytest.raises(UserError, match=message + ".*move the others elsewhere, or choose one with --kind"):
        plan(str(tmp_path))
    assert len(rows(tmp_path, "files")) == 2
    assert plan(str(tmp_path), "files").skipped == {f".{other.split('.')[1]}": 1}
    kind = "tars" if other.endswith("tar") else "table"
    assert plan(str(tmp_path), kind).skipped == {".png": 2}


def test_images_without_a_suffix_beside_a_tar_are_found(tmp_path):
    write(tmp_path, "0001", "0002")
    pack(tmp_path / "0.TAR", "0.png")
    with pytest.raises(UserError, match=r"1 tar file \(0.TAR\) and 2 image files \(0001\)"):
        plan(str(tmp_path))
    assert [row["key"] for row in rows(tmp_path, "tars")] == ["0.TAR:0"]


def test_a_metadata_table_beside_tars_or_images_is_not_read_as_a_source(tmp_path):

    pack(tmp_path / "tars" / "00000.tar", "0.png", "0.json")
    write(tmp_path / "images", "a/0.png")
    for folder, key in (("tars", "00000.tar:0"), ("images", "a/0.png")):
        pq.write_table(pa.table({"url": ["u"]}), tmp_path / folder / "00000.parquet")
        write(tmp_path / folder, "00000_stats.json", data=b"{}")
        assert [row["key"] for row in rows(tmp_path / folder)] == [key]
    assert plan(str(tmp_path / "tars")).skipped == {".parquet": 1, ".json": 2}
    kept = plan(str(tmp_path / "tars"), "tars")
    assert kept.fingerprint == plan(str(tmp_path / "tars")).fingerprint


def test_compressed_tars_beside_tars_are_refused(tmp_path):
    pack(tmp_path / "0.tar", "0.png")
    write(tmp_path, "1.tar.gz", data=b"x")
    with pytest.raises(UserError, match=r"holds uncompressed tars and 1 compressed \(1.tar.gz\): decompress"):
        plan(str(tmp_path))
    assert plan(str(tmp_path), "tars").skipped == {".gz": 1}


def test_the_error_for_a_folder_without_images_says_what_it_holds(tmp_path):
    write(tmp_path, "a.zip", "b.zip", "readme.txt", data=b"x")
    with pytest.raises(UserError, match=r"holds no images .*found: 2 .zip, 1 .txt"):
        plan(str(tmp_path))


def test_files_beside_the_parts_of_a_table_are_counted(tmp_path):
    image_table(tmp_path / "data" / "a.parquet", [PICTURE])
    write(tmp_path, "README.md", "data/_SUCCESS", data=b"x")
    assert plan(str(tmp_path)).skipped == {".md": 1, "no suffix": 1}


def test_an_output_inside_the_data_is_refused(tmp_path):
    write(tmp_path / "data", "a/0.png")
    source = plan(str(tmp_path / "data"))
    source.check_output(str(tmp_path / "data-latents"), str(tmp_path / "other"))
    for out in (tmp_path / "data", tmp_path / "data" / "latents", tmp_path / "data" / "a" / "x.png"):
        with pytest.raises(UserError, match=rf"the output {out} lies in the data .*choose another --out"):
            source.check_output(str(out))
    one = plan(str(tmp_path / "data" / "a" / "0.png"))
    one.check_output(str(tmp_path / "data" / "a" / "latents"))


def test_an_unreadable_folder_is_named(tmp_path, monkeypatch):
    write(tmp_path, "a/0.png", "b/0.png")
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match=r"Permission denied: '.*/b'"):
        plan(str(tmp_path))


FOLDERS = ("", "a/", "b/", "train/", "label=x/", "__MACOSX/", "a/deep/")
BASES = (
    "0.png",
    "1.JPG",
    "2",
    "3.txt",
    "4.json",
    "5.dat",
    "LICENSE",
    "6.zip",
    ".hidden",
    "7.tar",
    "8.parquet",
)


@given(st.sets(st.tuples(st.sampled_from(FOLDERS), st.sampled_from(BASES)), min_size=1, max_size=12))
@settings(max_examples=60)
def test_every_file_is_read_or_counted_or_the_source_is_refused(files):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for prefix, base in files:
            if base.endswith(".tar"):
                pack(root / prefix / base, "0.png")
            elif base.endswith(".parquet"):
                image_table(root / prefix / base, [PICTURE])
            else:
                write(root, prefix + base)
        try:
            source = plan(folder)
        except UserError:  # no images, or images of several kinds
            return
        keys = [row["key"] for row in rows(root)]
        assert len(keys) == len(set(keys)) == source.rows
        assert source.rows + source.skipped.total() == len(files)
        named_images = {
            prefix + base for prefix, base in files if base in BASES[:2] and prefix != "__MACOSX/"
        }
        assert not named_images or named_images <= set(keys)
