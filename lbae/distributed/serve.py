"""Serving a bundle with Ray Serve until interrupted, or changing the bundle of a service that runs."""

import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import ray
from ray import serve as ray_serve
from ray.serve.handle import DeploymentHandle

from lbae.distributed.deployments import SHELF, Topology, application, check_bundle
from lbae.distributed.session import session
from lbae.distributed.shelf import State
from lbae.errors import LbaeError, UserError
from lbae.io.storage import absolute
from lbae.web.guard import Limits
from lbae.web.guard import api_keys as keys_of

_APP = "lbae"
_LOOK_S = 2
_SWAP_S = 600


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
    address: str | None = None,
) -> Any:
    """Serve a bundle over HTTP: sampling, interpolation, attribute editing, encoding and decoding.

    Where a service runs already it is to answer from ``bundle`` from now on.

    Args:
        bundle: URI of the bundle.
        follow: URI of a file that holds a bundle's URI, instead; when the file changes, the service changes over.
        port: port to listen on, by default 8000.
        host: interface to listen on, by default 127.0.0.1; anything else is open to others and needs API keys.
        replicas: processes that hold the bundle, of every deployment; by default two where there are four CPUs, else one.
        max_replicas: as many of them while requests wait.
        topology: fused, all in one deployment (the default), or split: one each for codec, sampler, interpolator and editor.
        api_keys: file with one API key a line; or give them in LBAE_API_KEYS, between commas.
        insecure: serve on an open interface without API keys.
        address: Ray cluster to join; found or started when not given.
    """
    uri = bundle or follow
    if uri is None or (bundle and follow):
        raise UserError("give --bundle or --follow, and not both")
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
    with session(address):
        if is_served():
            if options or follow or api_keys:
                raise UserError(
                    "a service runs here already; of that only the bundle can be changed, by --bundle alone, unless `serve"
                    " shutdown` ends it first"
                )
            return swap(uri)
        with serving(uri, follow=bool(follow), limits=limits, **options) as facts:
            print(json.dumps(facts), flush=True)
            _watch()
    return None


def _watch() -> None:
    """Wait for the end, and say what happens to the bundle."""
    stop, seen = threading.Event(), state()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    while not stop.wait(_LOOK_S):
        now = state()
        if now.current != seen.current:
            print(f"answers from {now.current.uri} ({now.current.fingerprint}) now", file=sys.stderr)
        if now.problem and now.problem != seen.problem:
            print(f"error: {now.problem}; {now.current.uri} goes on", file=sys.stderr)
        seen = now


@contextmanager
def serving(bundle: str, port: int = 8000, host: str = "127.0.0.1", **options: Any) -> Iterator[dict[str, Any]]:
    """Serve a bundle on the connected Ray with the options of :func:`application`, and take down what was started.

    Yields the URL and the bundle's fingerprint once the service answers there. LbaeError when Ray Serve already runs on this
    cluster at another address: its proxy cannot be moved.
    """
    app = application(bundle, **options)
    running = bool(ray_serve.status().proxies)
    ray_serve.start(http_options={"host": host, "port": port})
    ray_serve.run(app, name=_APP, route_prefix="/")
    try:
        url = f"http://{host}:{port}"
        found = _check(url, bundle)
        yield {"url": url, "bundle": found, "address": ray.get_runtime_context().gcs_address}
    finally:
        if running:
            ray_serve.delete(_APP)
        else:
            ray_serve.shutdown()


def _check(url: str, bundle: str) -> str:
    try:
        answer = httpx.get(f"{url}/readyz", timeout=30)
    except httpx.HTTPError as error:
        raise LbaeError(
            f"nothing answers at {url} ({error}); Ray Serve may already run on this cluster at another port"
        ) from error
    if answer.status_code != 200:
        raise LbaeError(f"{url}/readyz answered {answer.status_code} for bundle {bundle}")
    return str(answer.json()["bundle"])


def is_served() -> bool:
    """Whether a service of this package runs on the connected Ray."""
    return _APP in ray_serve.status().applications


def state() -> State:
    """What the service on the connected Ray answers from."""
    found: State = _shelf().state.remote().result(timeout_s=60)
    return found


def swap(bundle: str) -> dict[str, Any]:
    """Let the service on the connected Ray answer from another bundle, and wait until all its replicas do.

    UserError or LbaeError when the bundle cannot be served; the one before goes on then.
    """
    before = state().current
    wanted = _shelf().swap.remote(absolute(bundle)).result(timeout_s=_SWAP_S)
    if isinstance(wanted, LbaeError):
        raise wanted
    until = time.monotonic() + _SWAP_S
    while (now := state()).current.fingerprint != wanted.fingerprint:
        if now.next != wanted:
            raise LbaeError(f"bundle {bundle} was not taken up: another swap, to {now.next.uri}, came in between")
        if time.monotonic() > until:
            raise LbaeError(f"not all replicas hold bundle {bundle} after {_SWAP_S} s; {before.uri} goes on")
        time.sleep(0.2)
    return {"bundle": wanted.fingerprint, "before": before.fingerprint}


def _shelf() -> DeploymentHandle:
    return ray_serve.get_deployment_handle(SHELF, _APP)
