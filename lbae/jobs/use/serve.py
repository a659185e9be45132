"""Serve a bundle over HTTP, or swap the bundle of a running service."""

import logging
import signal
import threading
from collections.abc import Iterator
from typing import Any

from lbae.distributed.cluster.failures import root_cause
from lbae.distributed.cluster.session import session
from lbae.distributed.serve.deployments import Topology, check_bundle
from lbae.distributed.serve.service import is_served, serving, state, swap
from lbae.errors import UserError
from lbae.jobs.options import Address, Gpus
from lbae.web.middleware import Limits
from lbae.web.middleware import api_keys as keys_of

_logger = logging.getLogger(__name__)

_LOOK_S = 2


def serve(
    *,
    bundle: str | None = None,
    follow: str | None = None,
    port: int | None = None,
    host: str | None = None,
    replicas: int | None = None,
    max_replicas: int | None = None,
    topology: Topology | None = None,
    api_keys: str | None = None,
    insecure: bool = False,
    gpus: Gpus = None,
    address: Address = None,
) -> Iterator[dict[str, Any]]:
    """Serve a bundle over HTTP: sampling, interpolation, attribute editing, encoding and decoding.

    Where a service runs already, it changes over to ``bundle``.

    Args:
        bundle: URI of the bundle.
        follow: URI of a file that holds a bundle's URI, instead; when the file changes, the service changes
            over.
        port: port to listen on, by default 8000.
        host: interface to listen on, by default 127.0.0.1; anything else is open to others and needs API
            keys.
        replicas: processes that hold the bundle, of every deployment; by default two where there are four
            CPUs, else one.
        max_replicas: as many of them while requests wait.
        topology: fused, all in one deployment (the default), or split: one each for codec, sampler,
            interpolator and editor.
        api_keys: file with one API key a line; or give them in LBAE_API_KEYS, between commas.
        insecure: serve on an open interface without API keys.
    """
    uri = bundle or follow
    if uri is None or (bundle and follow):
        raise UserError("give --bundle or --follow, and not both")
    if host == "":
        raise UserError("host is empty; allowed: the name or address of an interface, such as 127.0.0.1")
    check_bundle(uri, bool(follow))
    asked: dict[str, Any] = {
        "port": port,
        "host": host,
        "replicas": replicas,
        "max_replicas": max_replicas,
        "topology": topology,
    }
    options = {name: value for name, value in asked.items() if value is not None}
    limits = Limits(keys=keys_of(api_keys, host or "127.0.0.1", insecure))
    with session(address, gpus):
        if is_served():
            if options or follow or api_keys:
                raise UserError(
                    "a service runs here already; of that only the bundle can be changed, by --bundle alone,"
                    " unless `serve"
                    " shutdown` ends it first"
                )
            yield swap(uri)
            return
        signal.signal(
            signal.SIGTERM, signal.default_int_handler
        )  # while it starts, too, nothing is to be left behind
        with serving(uri, follow=bool(follow), limits=limits, **options) as facts:
            yield facts
            _watch()


def _watch() -> None:
    """Wait for the end, and say what happens to the bundle, and when nobody can say."""
    stop, seen, silent = threading.Event(), state(), False
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    while not stop.wait(_LOOK_S):
        try:
            now = state(_LOOK_S)
        except Exception as error:  # Serve starts a lost shelf again, and the replicas answer meanwhile
            if not silent:
                _logger.warning(f"what the service answers from is not known at present: {root_cause(error)}")
            silent = True
            continue
        silent = False
        if now.current != seen.current:
            _logger.info(f"answers from {now.current.uri} ({now.current.fingerprint}) now")
        if now.problem and now.problem != seen.problem:
            _logger.error(f"{now.problem}; {now.current.uri} goes on")
        seen = now
