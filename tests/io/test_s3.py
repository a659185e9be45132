"""An S3 server that throttles, refuses keys, keeps deleted files or lacks the bucket."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import s3fs

from lbae.errors import LbaeError, TransientStorageError, UserError
from lbae.io import machine_facts
from lbae.io.artifacts.output import Output
from lbae.io.sources.plan import plan
from lbae.io.storage import lock
from lbae.io.storage.location import resolve
from lbae.io.storage.lock import locked
from tests.s3_server import Refusing, refusing_server


@pytest.fixture
def refusing(s3, monkeypatch) -> Iterator[Refusing]:
    with refusing_server(monkeypatch) as app:
        yield app


def test_throttled_requests_are_retried(refusing):
    place = resolve("s3://bucket/file")
    refusing.refusals = 3
    place.write_bytes(b"content")
    refusing.refusals = 3
    assert place.read_bytes() == b"content"


def test_the_servers_answer_decides_whether_an_error_is_transient(refusing, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    place = resolve("s3://bucket/file")
    monkeypatch.setattr(place.fs, "retries", 1)
    for code, status, transient in (
        ("SlowDown", "503 Slow Down", True),
        ("InternalError", "500 Internal Server Error", True),
        ("AccessDenied", "403 Forbidden", False),
    ):
        refusing.code, refusing.status, refusing.refusals = code, status, 10**6
        for call in (place.exists, place.read_bytes, place.files, lambda: place.write_bytes(b"x")):
            with pytest.raises(LbaeError, match=r"s3://bucket/file cannot be") as caught:
                call()
            assert isinstance(caught.value, TransientStorageError) == transient


def test_refused_keys_are_named(refusing):
    refusing.code, refusing.status, refusing.refusals = "InvalidAccessKeyId", "403 Forbidden", 10**6
    with pytest.raises(LbaeError, match=r"s3://bucket/data cannot be reached: Forbidden"):
        plan("s3://bucket/data")
    with pytest.raises(LbaeError, match=r"s3://bucket cannot be reached: Forbidden"):
        plan("s3://bucket")
    with pytest.raises(LbaeError, match=r"s3://bucket/out cannot be written: InvalidAccessKeyId"):
        resolve("s3://bucket/out").write_bytes(b"x")
    with (
        pytest.raises(LbaeError, match=r"s3://bucket/out.lock cannot be written: InvalidAccessKeyId"),
        locked("s3://bucket/out"),
    ):
        pass


def test_files_that_the_storage_keeps_do_not_count_as_deleted(refusing, monkeypatch):
    monkeypatch.setattr(lock, "_PATIENCE_S", 0.1)
    kept = r"cannot be removed: .*files are still there; allow deletion \(s3:DeleteObject"
    out, old = "s3://bucket/out", resolve("s3://bucket/out/data/part-00000.parquet")
    first = Output(out, "table", parents={}, config={"seed": 0}, resume_key={"rows": 5})
    first.begin()
    old.write_bytes(b"of another run")
    resolve(f"{out}.lock").write_bytes(b"beat 7 of a job that died")
    refusing.keeps = True
    with pytest.raises(LbaeError, match=rf"s3://bucket/out\S* {kept}"):
        replace(first, config={"seed": 1}, overwrite=True).begin()
    with pytest.raises(LbaeError, match=rf"s3://bucket/out.lock {kept}"), locked(out):
        pass
    with pytest.raises(LbaeError, match=rf"s3://bucket/other.lock {kept}"), locked("s3://bucket/other"):
        pass
    found = machine_facts.storage("s3://bucket")
    assert not found.ok
    assert "s3:DeleteObject" in found.note
    refusing.keeps = False
    with locked(out):
        replace(first, config={"seed": 2}).begin()
    assert not old.exists()


def test_a_bucket_that_does_not_exist_is_named(s3):
    for place in ("s3://nowhere/data", "s3://nowhere"):
        with pytest.raises(UserError, match=f"data {place} does not exist"):
            plan(place)
    with (
        pytest.raises(LbaeError, match=r"out.lock cannot be written: .*bucket does not exist"),
        locked("s3://nowhere/out"),
    ):
        pass


def test_public_buckets_are_read_without_keys(monkeypatch, s3):
    public = resolve(f"{s3}/file")
    public.write_bytes(b"public")
    public.fs.chmod(public.path, "public-read")
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"AWS_{name}")
    monkeypatch.setattr(
        "fsspec.config.conf", {"s3": {"anon": True}}
    )  # the effect of FSSPEC_S3 at process start
    s3fs.S3FileSystem.clear_instance_cache()
    assert resolve(f"{s3}/file").fs.anon
    assert resolve(f"{s3}/file").read_bytes() == b"public"
