"""An S3 server that throttles, refuses keys or has no such bucket."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import s3fs
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from lbae.errors import LbaeError, UserError
from lbae.io.lock import locked
from lbae.io.source import plan
from lbae.io.storage import resolve


class Refusing:
    """An S3 server that answers the next ``refusals`` requests with an error."""

    def __init__(self) -> None:
        self.server = DomainDispatcherApplication(create_backend_app)
        self.refusals, self.code, self.status = 0, "SlowDown", "503 Slow Down"

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        if not self.refusals:
            return self.server(environ, start)
        self.refusals -= 1
        body = f"<Error><Code>{self.code}</Code><Message>{self.code}</Message></Error>".encode()
        start(self.status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


@pytest.fixture
def refusing(s3, monkeypatch) -> Iterator[Refusing]:
    app = Refusing()
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    s3fs.S3FileSystem.clear_instance_cache()
    yield app
    server.shutdown()
    thread.join()


def test_throttled_requests_are_tried_again(refusing):
    place = resolve("s3://bucket/file")
    refusing.refusals = 3
    place.write_bytes(b"content")
    refusing.refusals = 3
    assert place.read_bytes() == b"content"


def test_refused_keys_are_named(refusing):
    refusing.code, refusing.status, refusing.refusals = "InvalidAccessKeyId", "403 Forbidden", 10**6
    with pytest.raises(LbaeError, match=r"s3://bucket/data cannot be reached: Forbidden"):
        plan("s3://bucket/data")
    with (
        pytest.raises(LbaeError, match=r"s3://bucket/out.lock cannot be written: InvalidAccessKeyId"),
        locked("s3://bucket/out"),
    ):
        pass


def test_a_bucket_that_does_not_exist_is_named(s3):
    with pytest.raises(UserError, match="data s3://nowhere/data does not exist"):
        plan("s3://nowhere/data")
    with pytest.raises(LbaeError, match=r"out.lock cannot be written: .*bucket does not exist"), locked("s3://nowhere/out"):
        pass


def test_public_buckets_are_read_without_keys(monkeypatch, s3):
    public = resolve(f"{s3}/file")
    public.write_bytes(b"public")
    public.fs.chmod(public.path, "public-read")
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"AWS_{name}")
    monkeypatch.setattr("fsspec.config.conf", {"s3": {"anon": True}})  # what FSSPEC_S3 sets when a process starts
    s3fs.S3FileSystem.clear_instance_cache()
    assert resolve(f"{s3}/file").fs.anon
    assert resolve(f"{s3}/file").read_bytes() == b"public"
