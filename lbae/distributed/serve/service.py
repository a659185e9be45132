"""Serving a bundle with Ray Serve until interrupted, or changing the bundle of a service that runs."""

import errno
import logging
import math
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import ray
from ray import serve as ray_serve
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus

from lbae.distributed.cluster.resources import cluster_nodes
from lbae.distributed.cluster.storage_check import check_storage
from lbae.distributed.serve.bundle_registry import State
from lbae.distributed.serve.deployments import SHELF, application, check_bundle
from lbae.errors import LbaeError, UserError
from lbae.io.storage.location import absolute
from lbae.web.middleware import DEFAULT_LIMITS, Limits

_logger = logging.getLogger(__name__)

_APP = "lbae"
_START_S = 600
_SWAP_S = 600
_ANSWER_S = 30
# HAProxy hands requests straight to the replicas, where Serve's own proxy, in Python, takes ten times as long
# to pass one on (docs/results.md). Replicas that are to end are out of its list within a second.
_HAPROXY = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2"}
_NOT_THERE = (ApplicationStatus.NOT_STARTED, ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.DELETING)


@contextmanager
def serving(
    bundle: str, port: int = 8000, host: str = "127.0.0.1", limits: Limits = DEFAULT_LIMITS, **options: Any
) -> Iterator[dict[str, Any]]:
    """Serve a bundle on the connected Ray with the options of :func:`application`, and take down what was
    started.

    Yields the URL and the bundle's fingerprint once the service answers there. UserError when the port is
    taken, or Ray Serve listens elsewhere on this cluster already; LbaeError when the service does not start.
    """
    running = _check_address(host, port)
    check_storage([bundle], [])
    app = application(bundle, limits=limits, **options)
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    try:
        proxy = controller_options(host, limits.max_seconds)
        ray_serve.start(http_options={"host": host, "port": port}, controller_options=proxy)
        ray_serve._run(app, name=_APP, route_prefix="/", _blocking=False)  # run() would wait for ever
        _wait_until_running()
        yield {
            "url": url,
            "bundle": _check(url, bundle, options.get("follow", False)),
            "address": ray.get_runtime_context().gcs_address,
        }
    finally:
        if running:
            ray_serve.delete(_APP)
        else:
            ray_serve.shutdown()


def controller_options(host: str, max_seconds: float = DEFAULT_LIMITS.max_seconds) -> dict[str, Any] | None:
    """HAProxy, which ray[serve] brings along on Linux, where it reaches all replicas.

    It looks for those of its own node at 127.0.0.1, and for others, which listen at ``host`` too, at their
    nodes' addresses. A replica that is stuck keeps its connections, so requests to it are given up, and sent
    again, a little later than a replica itself gives up, after ``max_seconds``.
    """
    fit = host == "0.0.0.0" or (host == "127.0.0.1" and cluster_nodes() == 1)
    if not fit or sys.platform != "linux":
        return None
    waits = {"RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(math.ceil(max_seconds) + 5)}
    return {
        "runtime_env": {"env_vars": {**_HAPROXY, **waits, **(_own_places() if host == "127.0.0.1" else {})}}
    }


def _own_places() -> dict[str, str]:
    """Files and ports that no other service on this machine has, another user's perhaps: HAProxy's defaults
    are fixed.
    """
    folder = f"/tmp/haproxy-serve-{os.getuid()}"
    files = {
        "CONFIG_FILE_LOC": "haproxy.cfg",
        "SOCKET_PATH": "admin.sock",
        "SERVER_STATE_FILE": "server-state",
    }
    places = {name: f"{folder}/{file}" for name, file in files.items()} | {"SERVER_STATE_BASE": folder}
    with socket.socket() as metrics, socket.socket() as statistics:
        for port, name in ((metrics, "METRICS_PORT"), (statistics, "STATS_PORT")):
            port.bind(("127.0.0.1", 0))
            places[name] = str(port.getsockname()[1])
    return {f"RAY_SERVE_HAPROXY_{name}": value for name, value in places.items()}


def _check_address(host: str, port: int) -> bool:
    """Whether Ray Serve runs at this address already. UserError when it does elsewhere, or something else
    does here.
    """
    if not 0 < port < 2**16:
        raise UserError(f"port is {port}; allowed: 1 to 65535")
    try:
        # Not Ray Serve's client, which this process may still hold of a Serve that is gone.
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        pass
    else:
        if ((found := ray.get(controller.get_http_config.remote())).host, found.port) != (host, port):
            raise UserError(
                f"Ray Serve listens at {found.host}, port {found.port}, on this cluster already, which"
                f" cannot be changed to"
                f" {host}, port {port}: give --host {found.host} --port {found.port}, or end it by `serve"
                f" shutdown`"
            )
        return True
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # Ray's proxy would share the port with another service, and the kernel would deal requests out to
        # both.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if (
                error.errno != errno.EADDRNOTAVAIL
            ):  # an interface of the cluster's, perhaps, not of this machine
                raise UserError(
                    f"nothing can listen at {host}, port {port}: {error}; give another --port or --host"
                ) from error
    return False


def _wait_until_running() -> None:
    """LbaeError when the application cannot be deployed, or was not within ten minutes, with what Ray Serve
    says of it.
    """
    until, said = time.monotonic() + _START_S, ""
    while (found := ray_serve.status().applications[_APP]).status != ApplicationStatus.RUNNING:
        known = {name: of.message for name, of in found.deployments.items() if of.message}
        saying = "; ".join(f"{name}: {message.strip().splitlines()[-1]}" for name, message in known.items())
        if found.status == ApplicationStatus.DEPLOY_FAILED:
            raise LbaeError(f"the service could not be deployed: {saying or found.message}")
        if time.monotonic() > until:
            raise LbaeError(
                f"the service did not start in {_START_S} s:"
                f" {saying or 'its replicas wait for CPUs or memory'}"
            )
        if saying and saying != said:
            _logger.info(f"waiting: {saying}")
        said = saying
        time.sleep(0.2)


def _check(url: str, bundle: str, follow: bool) -> str:
    """The fingerprint of the bundle that answers at a URL. LbaeError when nothing does, or it is not this
    service.
    """
    until = time.monotonic() + _ANSWER_S
    while True:
        try:
            answer = httpx.get(f"{url}/readyz", timeout=_ANSWER_S)
            found = f"the answer to {url}/readyz was {answer.status_code}"
            if answer.status_code == 200:
                fingerprint, wanted = str(answer.json()["bundle"]), check_bundle(absolute(bundle), follow)
                if fingerprint == wanted:
                    return fingerprint
                found = f"{url} answers from another bundle, {fingerprint}, than this service's, {wanted}"
        except httpx.HTTPError as error:
            found = f"nothing answers at {url} ({error})"
        if time.monotonic() > until:
            raise LbaeError(found)
        time.sleep(0.2)


def is_served() -> bool:
    """Whether a service of this package runs on the connected Ray, and not only the rest of one that could
    not start.
    """
    found = ray_serve.status().applications.get(_APP)
    return found is not None and found.status not in _NOT_THERE


def state(timeout_s: float = 60) -> State:
    """What the service on the connected Ray answers from."""
    found: State = _shelf().state.remote().result(timeout_s=timeout_s)
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
            raise LbaeError(
                f"bundle {bundle} was not taken up: another swap, to {now.next.uri}, came in between"
            )
        if time.monotonic() > until:
            raise LbaeError(f"not all replicas hold bundle {bundle} after {_SWAP_S} s; {before.uri} goes on")
        time.sleep(0.2)
    return {"bundle": wanted.fingerprint, "before": before.fingerprint}


def _shelf() -> DeploymentHandle:
    return ray_serve.get_deployment_handle(SHELF, _APP)
