"""Serve a bundle over HTTP, or swap the bundle of a running service."""

import logging
import signal
import threading
from collections.abc import Iterator
from typing import Any

from lbae.distributed.cluster.failures import root_cause
from lbae.distributed.cluster.session import session
from lbae.distributed.serve.application import check_bundle
from lbae.distributed.serve.deployment_options import deployment_options
from lbae.distributed.serve.running_service import is_served, state, swap
from lbae.distributed.serve.service import serving
from lbae.distributed.serve.service_plan import Topology
from lbae.errors import UserError
from lbae.io.storage.hub import pinned
from lbae.jobs.options import Address, Gpus, Names
from lbae.web.foreign_pages import allowed_hosts, allowed_origins
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
    deployment: Names = (),
    gpus: Gpus = None,
    gpu_share: float | None = None,
    api_keys: str | None = None,
    insecure: bool = False,
    allow_host: Names = (),
    allow_origin: Names = (),
    address: Address = None,
) -> Iterator[dict[str, Any]]:
    """Serve a bundle over HTTP until Ctrl-C: sampling, interpolation, editing, encoding and decoding.

    If a service already runs on this cluster, swap its bundle for --bundle and exit.

    Args:
        bundle: URI of the bundle. Give --bundle or --follow.
        follow: URI of a file that holds the URI of a bundle; the service swaps when it changes.
        port: Port to listen on, 1 to 65535. If omitted: 8000.
        host: Interface to listen on. Any but the loopback is open to others and needs API keys.
            If omitted: 127.0.0.1.
        replicas: Replicas per deployment. If omitted: 2 if the cluster has four CPUs or more, else 1.
        max_replicas: Autoscale up to this many replicas while requests wait. If omitted: no autoscaling.
        topology: fused runs everything in one deployment. split has one deployment each for requests (LBAE),
            codec, sampler, interpolator and editor: they scale apart, and only the codec takes GPUs.
            auto is split if the codec runs on GPUs or --deployment names its parts, else fused. The service
            says which it took. If omitted: auto.
        deployment: Options of one deployment, as NAME:OPTION=NUMBER,... such as
            Codec:replicas=2,max_replicas=8,cpus=4. NAME is LBAE, Codec, Sampler, Interpolator or Editor.
            The options are replicas, max_replicas, target_requests (requests at a time per replica before
            one is added), cpus and memory_gb (both per replica).
        gpu_share: Fraction of a GPU per replica that runs the network, above 0, to 1; 0 for CPUs. The service
            waits for the GPUs of its replicas as with --gpus. If omitted: the replicas share the GPUs.
        api_keys: File with one API key per line.
            If omitted: the keys in LBAE_API_KEYS, separated by commas.
        insecure: Allow an open interface without API keys.
        allow_host: Name or address by which clients call the service, besides --host and localhost.
            Without API keys, the service refuses other names.
        allow_origin: Origin of web pages that may use the service, such as https://app.example.org.
    """
    uri = bundle or follow
    if uri is None or (bundle and follow):
        raise UserError("give --bundle or --follow, and not both")
    if host == "":
        raise UserError("host is empty; allowed: the name or address of an interface, such as 127.0.0.1")
    uri = uri if follow else pinned(uri)  # a push to the Hub must not change what is served
    check_bundle(uri, bool(follow))
    given: dict[str, Any] = {
        "port": port,
        "host": host,
        "replicas": replicas,
        "max_replicas": max_replicas,
        "topology": topology,
        "gpus": gpus,
        "gpu_share": gpu_share,
        "deployments": deployment_options(deployment) or None,
    }
    options = {name: value for name, value in given.items() if value is not None}
    is_open = host is not None and host not in LOOPBACK
    limits = Limits(
        keys=read_api_keys(api_keys, required=is_open and not insecure, where=f"host {host}"),
        hosts=allowed_hosts(allow_host),
        origins=allowed_origins(allow_origin),
    )
    with session(address):
        if is_served():
            if options or follow or api_keys or allow_host or allow_origin:
                raise UserError(
                    "a service already runs on this cluster; only its bundle can be changed, by --bundle"
                    " alone; to change more, end it first with `serve shutdown`"
                )
            yield swap(uri)
            return
        with serving(uri, follow=bool(follow), limits=limits, **options) as facts:
            stop = threading.Event()
            for number in (signal.SIGINT, signal.SIGTERM):  # from here on, the regular way to end a service
                signal.signal(number, lambda *_: stop.set())
            yield facts
            _watch(stop)


def _watch(stop: threading.Event) -> None:
    """Wait for ``stop``; log bundle swaps, failed swaps and a registry that does not answer."""
    seen, silent = state(), False
    while not stop.wait(_POLL_S):
        try:
            now = state(_POLL_S)
        except Exception as error:  # Serve restarts a lost registry; replicas answer without it
            if not silent:
                _logger.warning(f"the bundle registry does not answer: {root_cause(error)}")
            silent = True
            continue
        silent = False
        if now.current != seen.current:
            _logger.info(f"now serving {now.current.uri} ({now.current.fingerprint})")
        if now.problem and now.problem != seen.problem:
            _logger.error(f"{now.problem}; {now.current.uri} is still served")
        seen = now
