"""Which bundles a followed pointer file may name."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import fsspec
import pytest

from lbae.errors import UserError
from lbae.io.artifacts.bundle_artifact import move_pointer, read_pointer


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """An HTTP server that names a bundle of its own: its URL, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = f"{url}/bundle\n".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    served = HTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{served.server_port}"
    threading.Thread(target=served.serve_forever).start()
    yield url, asked
    served.shutdown()
    served.server_close()


@pytest.mark.parametrize(
    ("found", "protocol"),
    [
        ("{url}/bundle", "http"),
        ("s3://bucket/bundle", "s3"),
        ("memory://bundle", "memory"),
        ("simplecache::{url}/bundle", "simplecache"),
        ("file::{url}/bundle", "file"),
        ("github://owner:repository@main/bundle", "github"),
    ],
)
def test_a_local_pointer_names_no_bundle_elsewhere(tmp_path, server, found, protocol):
    url, asked = server
    pointer = tmp_path / "current"
    pointer.write_text(found.format(url=url))
    with pytest.raises(UserError, match=f"whose protocol is {protocol}; allowed: .* which is file"):
        read_pointer(str(pointer))
    assert asked == []


def test_a_pointer_on_another_storage_names_a_bundle_there_only(tmp_path):
    fsspec.filesystem("memory").pipe("/pointers/current", b"memory:///bundles/one\n")
    assert read_pointer("memory://pointers/current") == "memory:///bundles/one"
    fsspec.filesystem("memory").pipe("/pointers/current", f"{tmp_path}\n".encode())
    with pytest.raises(UserError, match=r"whose protocol is file; allowed: .* which is memory"):
        read_pointer("memory://pointers/current")


def test_no_pointer_is_followed_over_http(server):
    url, asked = server
    with pytest.raises(UserError, match="which is http, unless that is http"):
        read_pointer(f"{url}/current")
    assert set(asked) == {"/current"}


def test_a_moved_pointer_can_be_read(tmp_path):
    move_pointer(str(tmp_path / "current"), str(tmp_path / "bundle"))
    assert read_pointer(str(tmp_path / "current")) == str(tmp_path / "bundle")
