"""Serve a bundle over HTTP, or swap the bundle of a running service."""

import logging
import signal
import threading
from collections.abc import Iterator
from typing import Any

from lbae.distributed.cluster.failures import root_cause
from lbae.distributed.cluster.session import session
from lbae.distributed.serve.application import Topology, check_bundle
from lbae.distributed.serve.running_service import is_served, state, swap
from lbae.distributed.serve.service import serving
from lbae.errors import UserError
from lbae.jobs.options import Address, Gpus
from lbae.web.limits import LOOPBACK, Limits, read_api_keys

_logger = logging.getLogger(__name__)

_POLL_S = 2


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

    If a service runs on this cluster already, swap its bundle for ``bundle``.

    Args:
        bundle: URI of the bundle.
        follow: URI of a pointer file that holds a bundle's URI, instead; the service swaps when it changes.
        port: port to listen on, by default 8000.
        host: interface to listen on, by default 127.0.0.1; any other is open to others and needs API keys.
        replicas: replicas of every deployment; by default two where there are four CPUs, else one.
        max_replicas: autoscale up to as many replicas while requests wait.
        topology: fused (the default) runs everything in one deployment; split gives codec, sampler,
            interpolator and editor one each. Split pays only where they scale apart, as with few GPUs for the
            codec; on one node fused is faster.
        api_keys: file with one API key per line; or give them in LBAE_API_KEYS, separated by commas.
        insecure: serve on an open interface without API keys.
    """
    uri = bundle or follow
    if uri is None or (bundle and follow):
        raise UserError("give --bundle or --follow, and not both")
    if host == "":
        raise UserError("host is empty; allowed: the name or address of an interface, such as 127.0.0.1")
    check_bundle(uri, bool(follow))
    given: dict[str, Any] = {
        "port": port,
        "host": host,
        "replicas": replicas,
        "max_replicas": max_replicas,
        "topology": topology,
    }
    options = {name: value for name, value in given.items() if value is not None}
    is_open = host is not None and host not in LOOPBACK
    limits = Limits(keys=read_api_keys(api_keys, required=is_open and not insecure, where=f"host {host}"))
    with session(address, gpus):
        if is_served():
            if options or follow or api_keys:
                raise UserError(
                    "a service runs here already; only its bundle can be changed, by --bundle alone;"
                    " to change more, end it first with `serve shutdown`"
                )
            yield swap(uri)
            return
        with serving(uri, follow=bool(follow), limits=limits, **options) as facts:
            stop = threading.Event()
            for number in (signal.SIGINT, signal.SIGTERM):  # from here on the regular end of a service
                signal.signal(number, lambda *_: stop.set())
            yield facts
            _watch(stop)


def _watch(stop: threading.Event) -> None:
    """Wait for ``stop``, and log when the bundle changes, a swap fails or the registry is silent."""
    seen, silent = state(), False
    while not stop.wait(_POLL_S):
        try:
            now = state(_POLL_S)
        except Exception as error:  # Serve restarts a lost registry; the replicas answer meanwhile
            if not silent:
                _logger.warning(f"the bundle registry does not answer: {root_cause(error)}")
            silent = True
            continue
        silent = False
        if now.current != seen.current:
            _logger.info(f"serves {now.current.uri} ({now.current.fingerprint}) now")
        if now.problem and now.problem != seen.problem:
            _logger.error(f"{now.problem}; {now.current.uri} is still served")
        seen = now
