import pytest

from lbae.errors import LbaeError, UserError
from lbae.io.storage import absolute, readable, resolve


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


def test_files_lists_what_is_below_without_the_hidden(tmp_path):
    for name in ("b.txt", "a/c.txt", ".hidden", ".git/config", "_tmp/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [name for name, _ in resolve(str(tmp_path)).files()] == ["a/c.txt", "b.txt"]


def test_another_filesystem_goes_through_the_same_resolver():
    place = resolve("memory://test_storage/a")
    (place / "x").write_bytes(b"1")
    assert (place / "x").read_bytes() == b"1"
    assert [name for name, _ in place.files()] == ["x"]
    place.remove()
    assert not place.exists()


def test_mistakes_are_named():
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
    with pytest.raises(LbaeError, match=r"s3://bucket/x cannot be reached: .*127\.0\.0\.1:9"):
        resolve("s3://bucket/x").exists()
