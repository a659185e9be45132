"""The HTTP application as a Ray Serve application.

The fused topology runs every verb in the deployment that takes the requests. The split topology runs each
verb in a deployment of its own (:mod:`lbae.distributed.serve.split_topology`).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from ray import serve as ray_serve
from ray.serve import Application

from lbae.distributed.cluster.ray_private import serve_address
from lbae.distributed.cluster.resources import cluster_cpus, cluster_gpus, nodes, wait_for
from lbae.distributed.cluster.torch_env import TORCH_RUNTIME_ENV
from lbae.distributed.serve.bundle_registry import BundleRegistry
from lbae.distributed.serve.bundle_replica import open_codec, start_bundle_replica
from lbae.distributed.serve.ingress import Ingress
from lbae.distributed.serve.metrics import observe_requests
from lbae.distributed.serve.registry_placement import off_idle_nodes
from lbae.distributed.serve.replica_bundles import REGISTRY
from lbae.distributed.serve.replica_memory import replica_memory, reservations
from lbae.distributed.serve.split_topology import INGRESS, ROLES, start_split_ingress
from lbae.distributed.serve.verb_deployment import VerbDeployment
from lbae.errors import UserError
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

Topology = Literal["fused", "split"]

_MAX_THREADS = 4
_ROOMY_CPUS = 4  # with as many, a second replica does not slow the first
_MAX_HEARTBEATS = 1000
_HEALTH = {"health_check_period_s": 5, "health_check_timeout_s": 10}


class ServeArguments(BaseModel):
    """The application's arguments in a Serve config file."""

    model_config = ConfigDict(extra="forbid")

    bundle: str
    follow: bool = False
    replicas: int | None = None
    max_replicas: int | None = None
    topology: Topology = "fused"
    insecure: bool = False
    allow_host: tuple[str, ...] = ()
    allow_origin: tuple[str, ...] = ()


def build_application(arguments: ServeArguments) -> Application:
    """The application of a Serve config file, for ``serve deploy``.

    API keys come from LBAE_API_KEYS. They are required unless Ray Serve listens on the loopback, or
    ``insecure``.
    """
    options = arguments.model_dump(exclude={"insecure", "allow_host", "allow_origin"})
    return application(options.pop("bundle"), **options, limits=config_limits(arguments))


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


def application(
    bundle: str,
    *,
    follow: bool = False,
    replicas: int | None = None,
    max_replicas: int | None = None,
    topology: Topology = "fused",
    limits: Limits = DEFAULT_LIMITS,
) -> Application:
    """The Serve application that answers from a bundle.

    Args:
        bundle: URI of the bundle, or with ``follow`` of a pointer file that holds its URI.
        follow: swap to the new bundle when the pointer file changes.
        replicas: replicas of every deployment; by default two on a cluster of four CPUs or more, else one.
        max_replicas: autoscale up to this number while requests wait; by default no autoscaling.
        topology: ``fused`` runs every verb in one deployment. ``split`` runs each verb in its own, which pays
            only where verbs must scale apart, as with few GPUs for the codec; on one node fused is faster.
        limits: of the HTTP application.

    Raises:
        UserError: the cluster lacks CPUs for all replicas, even after waiting for nodes to join.
    """
    uri = absolute(bundle) if follow else pinned(absolute(bundle))
    check_bundle(uri, follow)
    least, most = replica_range(replicas, max_replicas)
    cpus = 1 if cluster_cpus() > 1 else 0.5
    wait_for(math.ceil(least * cpus), "CPU", "give fewer replicas, or join a larger cluster")
    compute = {
        "num_cpus": cpus,
        "num_gpus": share_of_gpu(cluster_gpus(), most),
        "runtime_env": TORCH_RUNTIME_ENV,
    }
    # A replica's share of its node. A batch keeps no more than a few threads busy.
    threads = max(1, min(_MAX_THREADS, cluster_cpus() // max(least, len(nodes()))))
    needs = replica_memory(bundle_artifact.read_pointer(uri) if follow else uri, threads, limits)
    rooms = [node.get("memory", 0) for node in nodes()]
    memory = reservations(needs, topology == "split", least, rooms)

    start = start_split_ingress if topology == "split" else functools.partial(start_bundle_replica, threads)

    def build() -> FastAPI:
        return create_app(start, limits, observe_requests())

    def scaled(deployment: Any, name: str, runs_codec: bool) -> Any:
        actor = {**(compute if runs_codec else {"num_cpus": 0}), "memory": memory[name]}
        return deployment.options(name=name, ray_actor_options=actor, **_scaling(least, most, limits))

    registry = ray_serve.deployment(
        BundleRegistry,
        name=REGISTRY,
        ray_actor_options={"num_cpus": 0, "label_selector": off_idle_nodes()},
        max_ongoing_requests=_MAX_HEARTBEATS,
        **_HEALTH,
    ).bind(uri, follow, keep_s=limits.max_seconds)
    verbs = [
        scaled(ray_serve.deployment(VerbDeployment), name, ROLES[name].runs_network).bind(
            opens, ROLES[name].parts, registry
        )
        for name, opens in _openers(threads).items()
        if topology == "split"
    ]
    ingress = scaled(ray_serve.deployment(ray_serve.ingress(build)(Ingress)), INGRESS, not verbs)
    return ingress.options(max_queued_requests=_max_requests(limits)).bind(registry, *verbs)


def _openers(threads: int) -> dict[str, Callable[..., Verbs]]:
    """What opens the verbs of each deployment of the split topology, from its parts of a bundle."""
    return {
        "Codec": functools.partial(open_codec, threads=threads),
        "Sampler": PriorVerbs,
        "Interpolator": PathVerbs,
        "Editor": EditVerbs,
    }


def _scaling(least: int, most: int, limits: Limits) -> dict[str, Any]:
    """Options of a deployment with this many replicas, autoscaled where the two differ."""
    autoscaling = {
        "min_replicas": least,
        "max_replicas": most,
        "target_ongoing_requests": limits.max_running / 4,
    }
    return {
        **({"autoscaling_config": autoscaling} if most > least else {"num_replicas": least}),
        **_HEALTH,
        "max_ongoing_requests": _max_requests(limits),
        "graceful_shutdown_timeout_s": limits.max_seconds,
    }


def replica_range(replicas: int | None, max_replicas: int | None) -> tuple[int, int]:
    """The minimum and maximum number of replicas of a deployment. UserError for an empty range."""
    least = (2 if cluster_cpus() >= _ROOMY_CPUS else 1) if replicas is None else replicas
    most = least if max_replicas is None else max_replicas
    if not 1 <= least <= most:
        raise UserError(
            f"replicas is {least}, max_replicas is {most}; allowed: replicas from 1, max_replicas no lower"
        )
    return least, most


def _max_requests(limits: Limits) -> int:
    """Room for the requests that the application runs, and for those that it answers with a 503."""
    return 2 * limits.max_running


def share_of_gpu(gpus: int, replicas: int) -> float:
    """The fraction of a GPU per replica; replicas share GPUs, so that none waits to be placed."""
    return 1 / math.ceil(replicas / gpus) if gpus else 0


def check_bundle(uri: str, follow: bool) -> str:
    """The fingerprint of the bundle at a URI, or with ``follow`` of the one that the pointer file names.

    UserError when there is none.
    """
    return read_manifest(
        bundle_artifact.read_pointer(uri) if follow else uri, bundle_artifact.KIND
    ).fingerprint
