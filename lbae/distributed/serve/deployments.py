"""The HTTP application as Ray Serve's deployments: every verb in one of them (fused), or one a
verb (split)."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import ray
import torch
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from ray import serve as ray_serve
from ray.exceptions import ObjectLostError, RayActorError
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

from lbae.core.bundle import Bundle
from lbae.distributed.cluster.network_env import RUNS_A_NETWORK
from lbae.distributed.cluster.resources import cluster_cpus, cluster_gpus, cluster_nodes, wait_for
from lbae.distributed.serve.bundle_registry import Edition, Shelf, Shelved
from lbae.distributed.serve.metrics import observe_batches, observe_requests
from lbae.errors import UserError
from lbae.io.artifacts import bundle_artifact as bundle_io
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.storage.location import absolute
from lbae.web.app import create_app
from lbae.web.backend import About, Backend, BundleBackend, OnBatch
from lbae.web.middleware import DEFAULT_LIMITS, Limits, api_keys

Topology = Literal["fused", "split"]

SHELF = "Shelf"

_SERVICE = "LBAE"
_VERBS = {"Codec": ("encode", "decode"), "Sampler": ("draw",), "Interpolator": ("path",), "Editor": ("edit",)}
_MAX_THREADS = 4
_ROOMY_CPUS = 4  # from here on a second replica takes nothing from the first
_MAX_ASKING = 1000
_HEALTH = {"health_check_period_s": 5, "health_check_timeout_s": 10}


class Deployed(BaseModel):
    """Arguments of the application in a Serve config file."""

    model_config = ConfigDict(extra="forbid")

    bundle: str
    follow: bool = False
    replicas: int | None = None
    max_replicas: int | None = None
    topology: Topology = "fused"
    insecure: bool = False


def deployed(arguments: Deployed) -> Application:
    """For ``serve deploy``; API keys come from LBAE_API_KEYS, and must unless ``insecure``."""
    limits = Limits(keys=api_keys(None, "a host in the Serve config", arguments.insecure))
    options = arguments.model_dump(exclude={"insecure"})
    return application(options.pop("bundle"), **options, limits=limits)


def application(
    bundle: str,
    *,
    follow: bool = False,
    replicas: int | None = None,
    max_replicas: int | None = None,
    topology: Topology = "fused",
    limits: Limits = DEFAULT_LIMITS,
) -> Application:
    """The Serve application for the bundle at a URI, or for the one that a file there names, to ``follow``
    it.

    Without ``replicas`` two of every deployment where there are CPUs for them, else one; with
    ``max_replicas`` up to as many while requests wait. UserError where there is no CPU for each of them, also
    after a while in which nodes may come.
    """
    uri = absolute(bundle)
    check_bundle(uri, follow)
    least = (2 if cluster_cpus() >= _ROOMY_CPUS else 1) if replicas is None else replicas
    most = least if max_replicas is None else max_replicas
    if not 1 <= least <= most:
        raise UserError(
            f"{least} replicas, max_replicas {most}; allowed: 1 or more replicas, and no more than"
            f" max_replicas"
        )
    # Room for every request that the application lets in, and for those that it must tell to come again.
    requests = 2 * limits.max_running
    cpus = 1 if cluster_cpus() > 1 else 0.5
    wait_for(math.ceil(least * cpus), "CPU", "give fewer replicas, or join a larger cluster")
    compute = {
        "num_cpus": cpus,
        "num_gpus": share_of_gpu(cluster_gpus(), most),
        "runtime_env": RUNS_A_NETWORK,
    }
    # Of the replica that multiplies: its part of a node, of which a batch does not fill more than a few.
    threads = max(1, min(_MAX_THREADS, cluster_cpus() // max(least, cluster_nodes())))
    shelf = ray_serve.deployment(
        Shelf, name=SHELF, ray_actor_options={"num_cpus": 0}, max_ongoing_requests=_MAX_ASKING, **_HEALTH
    ).bind(uri, follow, keep_s=limits.max_seconds)

    def scaled(deployment: Any, multiplies: bool) -> Any:
        target = limits.max_running / 4
        scaling = {"min_replicas": least, "max_replicas": most, "target_ongoing_requests": target}
        return deployment.options(
            **({"autoscaling_config": scaling} if most > least else {"num_replicas": least}),
            **_HEALTH,
            ray_actor_options=compute if multiplies else {"num_cpus": 0},
            max_ongoing_requests=requests,
            graceful_shutdown_timeout_s=limits.max_seconds,
        )

    async def opened() -> Callable[[], Backend]:
        shelved = _shelved(_from_shelf(threads) if topology == "fused" else _behind)
        await shelved.start()
        return shelved.current

    def build() -> FastAPI:
        return create_app(opened, limits, observe_requests())

    ingress = scaled(
        ray_serve.deployment(ray_serve.ingress(build)(_Ingress), name=_SERVICE), topology == "fused"
    )
    behind = [
        scaled(ray_serve.deployment(_Verbs, name=name), name == "Codec").bind(threads, shelf)
        for name in (_VERBS if topology == "split" else ())
    ]
    return ingress.options(max_queued_requests=requests).bind(shelf, *behind)


def share_of_gpu(gpus: int, replicas: int) -> float:
    """What every replica takes of a GPU, so that all of them find a place: they share, rather than one
    waiting for ever.
    """
    return 1 / math.ceil(replicas / gpus) if gpus else 0


def check_bundle(uri: str, follow: bool) -> str:
    """The fingerprint of the bundle at a URI, or at the one that a file there names; UserError when there is
    none.
    """
    return read_manifest(bundle_io.read_pointer(uri) if follow else uri, bundle_io.KIND).fingerprint


class _Ingress:
    """Takes requests; the deployments it is bound to are started before it."""

    app: FastAPI

    def __init__(self, *behind: DeploymentHandle) -> None:
        pass

    def check_health(self) -> None:
        """For Serve, which replaces a replica whose checks fail."""
        self.app.state.current().check()


def _handle(name: str) -> DeploymentHandle:
    return ray_serve.get_deployment_handle(name, ray_serve.get_replica_context().app_name)


def _shelved(opened: Callable[[Edition], Awaitable[Backend]]) -> Shelved:
    return Shelved(_handle(SHELF), ray_serve.get_replica_context().replica_id.to_full_id_str(), opened)


def _from_shelf(threads: int) -> Callable[[Edition], Awaitable[Backend]]:
    torch.set_num_threads(threads)
    shelf, on_batch = _handle(SHELF), observe_batches()

    async def opened(edition: Edition) -> Backend:
        (reference,) = await shelf.take.remote(edition)
        return await asyncio.to_thread(_backend, await reference, on_batch)

    return opened


def _backend(bundle: Bundle, on_batch: OnBatch) -> BundleBackend:
    device = (
        "cuda" if ray.get_gpu_ids() else "cpu"
    )  # torch sees GPUs too that others share out among themselves
    return BundleBackend(bundle.to(device), on_batch)


class _Verbs:
    """A deployment of some verbs. Mistakes in requests are returned: if raised, Serve would log them."""

    async def __init__(self, threads: int, shelf: DeploymentHandle) -> None:  # type: ignore[misc]  # Serve awaits it
        self._bundles = _shelved(_from_shelf(threads))
        await self._bundles.start()

    async def about(self, edition: Edition) -> About:
        """The facts of a bundle."""
        return (await self._bundles.of(edition)).about

    async def call(self, edition: Edition, verb: str, *arguments: Any) -> Any:
        """Run a verb on a bundle; its result, or the UserError."""
        try:
            return await getattr(await self._bundles.of(edition), verb)(*arguments)
        except UserError as error:
            return error

    def check_health(self) -> None:
        """For Serve, which replaces a replica whose checks fail."""
        self._bundles.current().check()


# Calls change nothing, so when the replica dies that has one, or its node and with it the result, another
# gets it.
_ANEW: dict[str, Any] = {
    "retry": retry_if_exception_type((RayActorError, ObjectLostError)),
    "stop": stop_after_attempt(3),
    "reraise": True,
}


async def _behind(edition: Edition) -> Backend:
    handles = {name: _handle(name) for name in _VERBS}
    return _Remote(edition, await handles["Sampler"].about.remote(edition), handles)


class _Remote:
    """A backend whose verbs run in their deployments, all on one bundle."""

    def __init__(self, edition: Edition, about: About, handles: dict[str, DeploymentHandle]) -> None:
        self.edition, self.about = edition, about
        self._handles = {verb: handles[name] for name, verbs in _VERBS.items() for verb in verbs}

    async def _call(self, verb: str, *arguments: Any) -> np.ndarray:
        async def called() -> Any:
            return await self._handles[verb].call.remote(self.edition, verb, *arguments)

        result: Any = await AsyncRetrying(**_ANEW)(called)
        if isinstance(result, UserError):
            raise result
        return result

    async def draw(
        self, count: int, seed: int, given: Mapping[str, bool], component: int | None
    ) -> np.ndarray:
        """Latents of the prior, or of one of its components."""
        return await self._call("draw", count, seed, given, component)

    async def path(self, waypoints: np.ndarray, steps: int, seed: int) -> np.ndarray:
        """Latents through all waypoints."""
        return await self._call("path", waypoints, steps, seed)

    async def edit(
        self,
        latents: np.ndarray,
        set_: Sequence[str],
        unset: Sequence[str],
        strength: float,
        method: str,
        seed: int,
    ) -> np.ndarray:
        """Latents with attributes set and unset."""
        return await self._call("edit", latents, set_, unset, strength, method, seed)

    async def encode(self, images: np.ndarray) -> np.ndarray:
        """Latents of images."""
        return await self._call("encode", images)

    async def decode(self, latents: np.ndarray) -> np.ndarray:
        """Images of latents."""
        return await self._call("decode", latents)

    def check(self) -> None:
        """The deployments are checked themselves."""
