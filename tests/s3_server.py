"""An S3 server that can throttle, refuse keys or delete nothing, over the buckets of the fixture ``s3``."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import s3fs
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server


class Refusing:
    """An S3 server that refuses the next ``refusals`` requests and, if set, every ``period``-th request.

    With ``keeps``, it deletes nothing and answers as S3 does: status 200 with an error per key.
    """

    def __init__(self) -> None:
        self.server = DomainDispatcherApplication(create_backend_app)
        self.refusals, self.code, self.status = 0, "SlowDown", "503 Slow Down"
        self.period = self.answered = self.refused = 0
        self.keeps = False

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        self.answered += 1
        if (
            self.keeps
            and environ["REQUEST_METHOD"] == "POST"
            and environ["QUERY_STRING"].startswith("delete")
        ):
            keys = re.findall(b"<Key>.*?</Key>", environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
            errors = (
                b"<Error>%b<Code>AccessDenied</Code><Message>Access Denied</Message></Error>" % key
                for key in keys
            )
            start("200 OK", [("Content-Type", "application/xml")])
            return [b"<DeleteResult>", *errors, b"</DeleteResult>"]
        periodic = self.period and not self.answered % self.period
        if not self.refusals and not periodic:
            return self.server(environ, start)
        self.refusals -= not periodic
        self.refused += 1
        body = f"<Error><Code>{self.code}</Code><Message>{self.code}</Message></Error>".encode()
        start(self.status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


@contextmanager
def refusing_server(patch: pytest.MonkeyPatch) -> Iterator[Refusing]:
    """Start such a server, for this process and the jobs that it starts."""
    app = Refusing()
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    s3fs.S3FileSystem.clear_instance_cache()
    yield app
    server.shutdown()
    thread.join()
