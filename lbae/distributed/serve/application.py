"""The HTTP application as a Ray Serve application.

The fused topology runs every verb in the deployment that takes the requests. The split topology runs each
verb in a deployment of its own (:mod:`lbae.distributed.serve.split_topology`).
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from ray import serve as ray_serve
from ray.serve import Application

from lbae.distributed.cluster.ray_private import serve_address
from lbae.distributed.cluster.torch_env import TORCH_RUNTIME_ENV
from lbae.distributed.serve.bundle_registry import BundleRegistry
from lbae.distributed.serve.bundle_replica import open_codec, start_bundle_replica
from lbae.distributed.serve.ingress import Ingress
from lbae.distributed.serve.metrics import observe_requests
from lbae.distributed.serve.registry_placement import off_idle_nodes
from lbae.distributed.serve.replica_bundles import REGISTRY
from lbae.distributed.serve.service_plan import DeploymentPlan, Scaling, ServicePlan, plan_service
from lbae.distributed.serve.split_topology import INGRESS, ROLES, start_split_ingress
from lbae.distributed.serve.verb_deployment import VerbDeployment
from lbae.io.artifacts import bundle_artifact
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.storage.hub import pinned
from lbae.io.storage.location import absolute
from lbae.web.app import create_app
from lbae.web.backend.backend import Verbs
from lbae.web.backend.edit_verbs import EditVerbs
from lbae.web.backend.path_verbs import PathVerbs
from lbae.web.backend.prior_verbs import PriorVerbs
from lbae.web.foreign_pages import allowed_hosts, allowed_origins, canonical_host
from lbae.web.limits import DEFAULT_LIMITS, LOOPBACK, Limits, read_api_keys

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
    own, threads = plan.deployments, plan.threads
    split = plan.topology == "split"
    start = start_split_ingress if split else functools.partial(start_bundle_replica, threads)

    def build() -> FastAPI:
        return create_app(start, limits, observe_requests())

    def scaled(deployment: Any, name: str) -> Any:
        return deployment.options(name=name, **_deployment_options(own[name], limits))

    registry = ray_serve.deployment(
        BundleRegistry,
        name=REGISTRY,
        ray_actor_options={"num_cpus": 0, "label_selector": off_idle_nodes()},
        max_ongoing_requests=_MAX_HEARTBEATS,
        **_HEALTH,
    ).bind(bundle, follow, keep_s=limits.max_seconds)
    verbs = [
        scaled(ray_serve.deployment(VerbDeployment), name).bind(opens, ROLES[name].parts, registry)
        for name, opens in _openers(threads).items()
        if split
    ]
    ingress = scaled(ray_serve.deployment(ray_serve.ingress(build)(Ingress)), INGRESS)
    return ingress.options(max_queued_requests=_max_requests(limits)).bind(registry, *verbs)


def _openers(threads: int) -> dict[str, Callable[..., Verbs]]:
    """What opens the verbs of each deployment of the split topology, from its parts of a bundle."""
    return {
        "Codec": functools.partial(open_codec, threads=threads),
        "Sampler": PriorVerbs,
        "Interpolator": PathVerbs,
        "Editor": EditVerbs,
    }


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
