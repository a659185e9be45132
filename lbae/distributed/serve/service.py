"""Start a service on Ray Serve, and shut it down."""

import errno
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import ray
from ray import serve as ray_serve
from ray.serve.schema import ApplicationStatus

from lbae.distributed.cluster.ray_private import deploy, serve_address
from lbae.distributed.cluster.storage_check import check_storage
from lbae.distributed.serve.application import application, check_bundle, planned
from lbae.distributed.serve.haproxy import controller_options, end_orphans
from lbae.distributed.serve.processes import listener
from lbae.distributed.serve.running_service import APP
from lbae.distributed.serve.service_plan import Scaling
from lbae.distributed.serve.split_topology import INGRESS
from lbae.errors import LbaeError, UserError
from lbae.io.storage.location import absolute
from lbae.web.foreign_pages import canonical_host
from lbae.web.limits import DEFAULT_LIMITS, Limits

_logger = logging.getLogger(__name__)

_START_S = 600
_ANSWER_S = 30
_POLL_S = 0.2


@contextmanager
def serving(
    bundle: str,
    port: int = 8000,
    host: str = "127.0.0.1",
    *,
    follow: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    **options: Any,
) -> Iterator[dict[str, Any]]:
    """Serve a bundle on the connected Ray cluster, and shut down at the end what was started.

    Args:
        bundle: URI of the bundle, or with ``follow`` of a pointer file that holds its URI.
        port: port to listen on.
        host: interface to listen on.
        follow: swap to the new bundle when the pointer file changes.
        limits: of the HTTP application.
        options: fields of :class:`lbae.distributed.serve.service_plan.Scaling`.

    Yields:
        Once the service answers: the URL, the bundle's fingerprint, Ray's address, and the topology with the
        reason for it.

    Raises:
        UserError: the port is taken, or this cluster's Ray Serve listens at another address.
        LbaeError: the service does not start.
    """
    running = _check_address(host, port)
    check_storage([bundle], [])
    limits = replace(limits, hosts=(*limits.hosts, canonical_host(host)))
    uri, plan = planned(bundle, follow, Scaling(**options), limits)
    app = application(uri, plan, follow=follow, limits=limits)
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    try:
        # HAProxy knows the replicas of the ingress only.
        proxy = controller_options(host, limits.max_seconds, plan.deployments[INGRESS].is_autoscaled)
        ray_serve.start(http_options={"host": host, "port": port}, controller_options=proxy)
        deploy(app, APP)
        _wait_until_running()
        yield {
            "url": url,
            "bundle": _wait_until_answering(url, bundle, follow, limits.keys),
            "address": ray.get_runtime_context().gcs_address,
            "topology": plan.topology,
            "topology_reason": plan.reason,
        }
    finally:
        if running:
            ray_serve.delete(APP)
        else:
            ray_serve.shutdown()


def _check_address(host: str, port: int) -> bool:
    """Whether Ray Serve already listens at this address.

    UserError if it listens at another address, or if another program listens here.
    """
    if not 0 < port < 2**16:
        raise UserError(f"port is {port}; allowed: 1 to 65535")
    if address := serve_address():
        if address != (host, port):
            raise UserError(
                f"Ray Serve already listens at {address[0]}, port {address[1]}, on this cluster, and this"
                f" cannot be changed to {host}, port {port}: give --host {address[0]} --port {address[1]}, or"
                " stop it with `serve shutdown`"
            )
        return True
    if ended := end_orphans():
        _logger.info(f"stopped the HAProxy that a killed service left (process {', '.join(map(str, ended))})")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # Ray's proxy would share a taken port, and the kernel would send requests to both programs.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UserError(
                    f"port {port} at {host} is taken: {listener(port)} listens there; stop it, or give"
                    " another --port"
                ) from error
            if error.errno != errno.EADDRNOTAVAIL:  # it may be an interface of another node
                raise UserError(
                    f"nothing can listen at {host}, port {port}: {error}; give another --port or --host"
                ) from error
    return False


def _wait_until_running() -> None:
    """LbaeError with Ray Serve's messages when the application is not deployed within ten minutes."""
    until, shown = time.monotonic() + _START_S, ""
    while (found := ray_serve.status().applications[APP]).status != ApplicationStatus.RUNNING:
        messages = {name: of.message for name, of in found.deployments.items() if of.message}
        said = "; ".join(f"{name}: {message.strip().splitlines()[-1]}" for name, message in messages.items())
        if found.status == ApplicationStatus.DEPLOY_FAILED:
            raise LbaeError(f"the service could not be deployed: {said or found.message}")
        if time.monotonic() > until:
            raise LbaeError(
                f"the service did not start in {_START_S} s: {said or 'its replicas wait for CPUs or memory'}"
            )
        if said and said != shown:
            _logger.info(f"waiting: {said}")
        shown = said
        time.sleep(_POLL_S)


def _wait_until_answering(url: str, bundle: str, follow: bool, keys: tuple[str, ...]) -> str:
    """The fingerprint of the bundle that answers at a URL; the service names it to those who have a key.

    LbaeError if nothing answers, or if another service answers.
    """
    headers = {"Authorization": f"Bearer {keys[0]}"} if keys else {}
    until = time.monotonic() + _ANSWER_S
    while True:
        try:
            answer = httpx.get(f"{url}/readyz", headers=headers, timeout=_ANSWER_S)
            found = f"{url}/readyz answered with status {answer.status_code}"
            if answer.status_code == 200:
                fingerprint, wanted = answer.headers.get("X-Bundle"), check_bundle(absolute(bundle), follow)
                if fingerprint == wanted:
                    return wanted
                found = f"{url} serves bundle {fingerprint or 'of another service'}; this one's is {wanted}"
        except httpx.HTTPError as error:
            found = f"nothing answers at {url} ({error})"
        if time.monotonic() > until:
            raise LbaeError(found)
        time.sleep(_POLL_S)
