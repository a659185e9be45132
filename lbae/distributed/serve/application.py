"""The HTTP application as a Ray Serve application.

The fused topology runs every verb in the deployment that takes the requests. The split topology runs each
verb in a deployment of its own (:mod:`lbae.distributed.serve.split_topology`).
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Literal

import ray
import torch
from fastapi import FastAPI
from ray import serve as ray_serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from lbae.core.bundle import Bundle
from lbae.distributed.cluster.device import checked_device, device_type
from lbae.distributed.cluster.ray_private import serve_address
from lbae.distributed.cluster.torch_env import TORCH_RUNTIME_ENV
from lbae.distributed.serve.bundle_registry import BundleRegistry, BundleVersion
from lbae.distributed.serve.metrics import observe_batches, observe_requests
from lbae.distributed.serve.replica_bundles import OpenBackend, ReplicaBundles
from lbae.distributed.serve.service_plan import DeploymentPlan, Scaling, ServicePlan, plan_service
from lbae.distributed.serve.split_topology import INGRESS, VerbDeployment, open_remote_backend
from lbae.io.artifacts import bundle_artifact
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.storage.hub import pinned
from lbae.io.storage.location import absolute
from lbae.web.app import create_app
from lbae.web.backend.backend import Backend, BundleBackend, OnBatch
from lbae.web.foreign_pages import allowed_hosts, allowed_origins, canonical_host
from lbae.web.limits import DEFAULT_LIMITS, LOOPBACK, Limits, read_api_keys

REGISTRY = "BundleRegistry"

_logger = logging.getLogger(__name__)

_MAX_HEARTBEATS = 1000
_HEALTH: dict[str, Any] = {"health_check_period_s": 5, "health_check_timeout_s": 10}


class ServeArguments(Scaling):
    """The application's arguments in a Serve config file."""

    bundle: str
    follow: bool = False
    insecure: bool = False
    allow_host: tuple[str, ...] = ()
    allow_origin: tuple[str, ...] = ()


def build_application(arguments: ServeArguments) -> Application:
    """The application of a Serve config file, for ``serve deploy``.

    API keys come from LBAE_API_KEYS. They are required unless Ray Serve listens on the loopback, or
    ``insecure``.
    """
    limits = config_limits(arguments)
    bundle, plan = planned(arguments.bundle, arguments.follow, arguments, limits)
    return application(bundle, plan, follow=arguments.follow, limits=limits)


def config_limits(arguments: ServeArguments) -> Limits:
    """Who may use the service of a Serve config, whose host is that of Ray Serve."""
    address = serve_address()  # None while Ray Serve does not run; any host may follow
    return Limits(
        keys=read_api_keys(
            None,
            required=(address is None or address[0] not in LOOPBACK) and not arguments.insecure,
            where=f"host {address[0]}" if address else "the service of a Serve config",
        ),
        hosts=allowed_hosts(arguments.allow_host) + ((canonical_host(address[0]),) if address else ()),
        origins=allowed_origins(arguments.allow_origin),
    )


def planned(bundle: str, follow: bool, scaling: Scaling, limits: Limits) -> tuple[str, ServicePlan]:
    """The absolute and pinned URI of a bundle, or with ``follow`` of a pointer file, and the service's plan.

    UserError when there is no bundle, or as :func:`lbae.distributed.serve.service_plan.plan_service`.
    """
    uri = absolute(bundle) if follow else pinned(absolute(bundle))
    check_bundle(uri, follow)
    plan = plan_service(bundle_artifact.read_pointer(uri) if follow else uri, scaling, limits)
    _logger.info(f"topology {plan.topology}: {plan.reason}")
    return uri, plan


def application(
    bundle: str, plan: ServicePlan, *, follow: bool = False, limits: Limits = DEFAULT_LIMITS
) -> Application:
    """The Serve application that answers from a bundle.

    Args:
        bundle: absolute URI of the bundle, or with ``follow`` of a pointer file that holds its URI.
        plan: the deployments, their replicas, and what these reserve.
        follow: swap to the new bundle when the pointer file changes.
        limits: of the HTTP application.
    """
    own, topology = plan.deployments, plan.topology

    def build() -> FastAPI:
        return create_app(lambda: _start_replica(topology, own[INGRESS].threads), limits, observe_requests())

    def scaled(deployment: Any, name: str) -> Any:
        return deployment.options(name=name, **_deployment_options(own[name], limits))

    registry = ray_serve.deployment(
        BundleRegistry,
        name=REGISTRY,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=_MAX_HEARTBEATS,
        **_HEALTH,
    ).bind(bundle, follow, keep_s=limits.max_seconds)
    verbs = [
        scaled(ray_serve.deployment(VerbDeployment), name).bind(_bundles_opener(of.threads), registry)
        for name, of in own.items()
        if name != INGRESS
    ]
    ingress = scaled(ray_serve.deployment(ray_serve.ingress(build)(_Ingress)), INGRESS)
    return ingress.options(max_queued_requests=_max_requests(limits)).bind(registry, *verbs)


def _deployment_options(plan: DeploymentPlan, limits: Limits) -> dict[str, Any]:
    """Serve's options of a deployment, autoscaled where its numbers of replicas differ."""
    autoscaling = {
        "min_replicas": plan.least,
        "max_replicas": plan.most,
        "target_ongoing_requests": plan.target_requests,
    }
    return {
        **({"autoscaling_config": autoscaling} if plan.is_autoscaled else {"num_replicas": plan.least}),
        **_HEALTH,
        "max_ongoing_requests": _max_requests(limits),
        "graceful_shutdown_timeout_s": limits.max_seconds,
        "ray_actor_options": {
            "num_cpus": plan.cpus,
            "num_gpus": plan.gpus,
            "memory": plan.memory,
            "runtime_env": TORCH_RUNTIME_ENV,
        },
    }


def _max_requests(limits: Limits) -> int:
    """Room for the requests that the application runs, and for those that it answers with a 503."""
    return 2 * limits.max_running


def check_bundle(uri: str, follow: bool) -> str:
    """The fingerprint of the bundle at a URI, or with ``follow`` of the one that the pointer file names.

    UserError when there is none.
    """
    return read_manifest(
        bundle_artifact.read_pointer(uri) if follow else uri, bundle_artifact.KIND
    ).fingerprint


class _Ingress:
    """Takes requests. Serve first starts the deployments bound to it."""

    app: FastAPI

    def __init__(self, *dependencies: DeploymentHandle) -> None:
        pass

    def check_health(self) -> None:
        """Raise when the backend is stuck; Serve then replaces this replica."""
        self.app.state.current().check()


async def _start_replica(topology: Literal["fused", "split"], threads: int) -> Callable[[], Backend]:
    """Open the bundle, and return a function that gives the ingress its current backend."""
    if topology == "fused":
        torch.set_num_threads(threads)
        bundles = _replica_bundles(_local_backend_opener())
    else:
        bundles = _replica_bundles(open_remote_backend)
    await bundles.start()
    return bundles.current


def _bundles_opener(threads: int) -> Callable[[], ReplicaBundles]:
    def open_bundles() -> ReplicaBundles:
        torch.set_num_threads(threads)
        return _replica_bundles(_local_backend_opener())

    return open_bundles


def _replica_bundles(open_backend: OpenBackend) -> ReplicaBundles:
    context = ray_serve.get_replica_context()
    return ReplicaBundles(_registry(), context.replica_id.to_full_id_str(), open_backend)


def _registry() -> DeploymentHandle:
    return ray_serve.get_deployment_handle(REGISTRY, ray_serve.get_replica_context().app_name)


def _local_backend_opener() -> OpenBackend:
    registry, on_batch = _registry(), observe_batches()

    async def open_backend(version: BundleVersion) -> Backend:
        (reference,) = await registry.fetch.remote(version)
        return await asyncio.to_thread(_local_backend, await reference, on_batch)

    return open_backend


def _local_backend(bundle: Bundle, on_batch: OnBatch) -> BundleBackend:
    # Ray's view of GPUs, not torch's: torch also sees GPUs that belong to other actors.
    device = checked_device(device_type(len(ray.get_gpu_ids())))
    return BundleBackend(bundle.to(device), on_batch)
