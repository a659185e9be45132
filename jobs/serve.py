"""Serve a bundle over HTTP with Ray Serve until interrupted."""

import json
import signal
import threading
from typing import Any, Literal

from lbae.cli import run
from lbae.distributed.serve import serving
from lbae.distributed.session import session
from lbae.io import bundle as bundle_io
from lbae.io.artifact import read_manifest
from lbae.web.guard import Limits
from lbae.web.guard import api_keys as keys_of


def serve(
    *,
    bundle: str,
    port: int = 8000,
    host: str = "127.0.0.1",
    replicas: int = 1,
    topology: Literal["fused", "split"] = "fused",
    api_keys: str | None = None,
    insecure: bool = False,
    address: str | None = None,
) -> Any:
    """Serve a bundle over HTTP: sampling, interpolation, attribute editing, encoding and decoding.

    Args:
        bundle: URI of the bundle.
        port: port to listen on.
        host: interface to listen on; anything but the loopback is open to others and needs API keys.
        replicas: processes that hold the bundle, of every deployment.
        topology: all in one deployment, or one each for codec, sampler, interpolator and editor.
        api_keys: file with one API key a line; or give them in LBAE_API_KEYS, between commas.
        insecure: serve on an open interface without API keys.
        address: Ray cluster to join; found or started when not given.
    """
    read_manifest(bundle, bundle_io.KIND)
    limits = Limits(keys=keys_of(api_keys, host, insecure))
    with session(address), serving(bundle, port, host, replicas, topology, limits) as facts:
        print(json.dumps(facts), flush=True)
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        stop.wait()


if __name__ == "__main__":
    run(serve)
