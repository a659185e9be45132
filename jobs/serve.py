"""Serve a bundle over HTTP with Ray Serve until interrupted."""

import json
import signal
import threading
from typing import Any

from lbae.cli import run
from lbae.distributed.serve import serving
from lbae.distributed.session import session
from lbae.io import bundle as bundle_io
from lbae.io.artifact import read_manifest


def serve(*, bundle: str, port: int = 8000, host: str = "127.0.0.1", replicas: int = 1, address: str | None = None) -> Any:
    """Serve a bundle over HTTP: GET /readyz, POST /v1/sample.

    Args:
        bundle: URI of the bundle.
        port: port to listen on.
        host: interface to listen on; anything but the loopback is open to others and has no authentication.
        replicas: processes that hold the bundle.
        address: Ray cluster to join; found or started when not given.
    """
    read_manifest(bundle, bundle_io.KIND)
    with session(address), serving(bundle, port, host, replicas) as facts:
        print(json.dumps(facts), flush=True)
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        stop.wait()


if __name__ == "__main__":
    run(serve)
