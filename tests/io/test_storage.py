import errno
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

from lbae.errors import LbaeError, TransientStorageError, UserError
from lbae.io.storage.location import absolute, readable, resolve
from tests.conftest import ROOT


def test_local_paths_become_absolute_and_urls_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("a/b") == str(tmp_path / "a" / "b")
    assert absolute("s3://bucket/a") == "s3://bucket/a"


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    place = resolve(str(tmp_path / "deep" / "file"))
    place.write_bytes(b"old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("power cut")))
    with pytest.raises(OSError, match="power cut"):
        place.write_bytes(b"new")
    assert place.read_bytes() == b"old"


def test_files_lists_subfolders_without_hidden_files(tmp_path):
    for name in ("b.txt", "a/c.txt", ".hidden", ".git/config", "_tmp/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [name for name, _ in resolve(str(tmp_path)).files()] == ["_tmp/x", "a/c.txt", "b.txt"]


def test_removing_and_listing_follow_no_links(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "part").touch()
    (tmp_path / "out").mkdir()
    for link in ("link", "out/link"):
        (tmp_path / link).symlink_to(tmp_path / "precious")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    assert resolve(str(tmp_path / "out")).files() == []
    for name in ("link", "out", "dangling", "nothing"):
        resolve(str(tmp_path / name)).remove()
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
    assert (tmp_path / "precious" / "part").exists()


def test_a_kill_during_a_write_leaves_only_a_hidden_temporary_file(tmp_path):
    place = resolve(str(tmp_path / "part.parquet"))
    code = (
        "import os, sys; from lbae.io.storage.location import resolve;"
        " os.replace = lambda *_: os._exit(9); resolve(sys.argv[1]).write_bytes(b'half')"
    )
    assert subprocess.run([sys.executable, "-c", code, str(place)], cwd=ROOT, check=False).returncode == 9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".part.parquet.")
    assert not place.exists()
    assert resolve(str(tmp_path)).is_empty_folder()
    assert resolve(str(tmp_path)).files() == []
    assert [name for name, _ in resolve(str(tmp_path)).files(temporary=True)] == [left.name]
    pq.write_table(pa.table({"x": [1]}), place.path)
    assert pq.read_table(tmp_path).num_rows == 1
    (tmp_path / ".notes").touch()
    assert not resolve(str(tmp_path)).is_empty_folder()
    assert [name for name, _ in resolve(str(tmp_path)).files(temporary=True)] == [left.name, "part.parquet"]


def test_a_failed_write_leaves_no_file_and_keeps_its_errno(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        resolve(str(tmp_path / "file")).write_bytes(b"content")
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_other_filesystems_are_resolved_the_same_way():
    place = resolve("memory://test_storage/a")
    (place / "x").write_bytes(b"1")
    assert (place / "x").read_bytes() == b"1"
    assert [name for name, _ in place.files()] == ["x"]
    place.remove()
    assert not place.exists()


def test_unknown_protocols_and_missing_paths_are_named():
    with pytest.raises(UserError, match="no filesystem for 'nosuch://x'"):
        resolve("nosuch://x")
    with pytest.raises(UserError, match="data /no/such/place does not exist"):
        readable("/no/such/place", "data")


def test_a_bucket_that_does_not_answer_is_named(monkeypatch):
    for name, value in {
        "ACCESS_KEY_ID": "x",
        "SECRET_ACCESS_KEY": "y",
        "ENDPOINT_URL": "http://127.0.0.1:9",
        "MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    place = resolve("s3://bucket/x")
    for verb, call in {
        "reached": place.exists,
        "read": place.read_bytes,
        "written": lambda: place.write_bytes(b"x"),
        "listed": place.files,
    }.items():
        with pytest.raises(TransientStorageError, match=rf"s3://bucket/x cannot be {verb}: .*127\.0\.0\.1:9"):
            call()
    with pytest.raises(LbaeError, match=r"s3://bucket/x cannot be (read|reached): .*127\.0\.0\.1:9"):
        place.open()
    with pytest.raises(LbaeError, match=r"s3://bucket/x cannot be written: .*127\.0\.0\.1:9"):
        place.create(b"x")
    with pytest.raises(LbaeError, match=r"s3://bucket cannot be reached: .*127\.0\.0\.1:9"):
        readable("s3://bucket", "data")


def test_missing_credentials_are_named(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    place = resolve("s3://bucket/x")
    with pytest.raises(LbaeError, match=r"s3://bucket/x cannot be written: Unable to locate credentials"):
        place.create(b"x")
    with pytest.raises(LbaeError, match=r"s3://bucket/x cannot be written: Unable to locate credentials"):
        place.write_bytes(b"x")
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_file_is_read_up_to_the_limit_whatever_size_the_system_gives():
    with pytest.raises(UserError, match="/proc/self/status has more than 5 bytes; allowed: at most 5"):
        resolve("/proc/self/status").read_bytes(most=5)
    assert resolve("/proc/self/status").read_bytes(most=2**20).startswith(b"Name:")


def test_an_error_of_a_read_names_its_file():
    with pytest.raises(OSError, match="Input/output error: '/proc/self/mem'"):
        resolve("/proc/self/mem").read_bytes(most=100)
