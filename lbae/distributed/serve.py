"""The HTTP application on Ray Serve: every verb in one deployment (fused), or one deployment a verb (split).

One deployment loads the bundle into the object store, from where the replicas of a node share its large matrices.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import httpx
import numpy as np
import ray
import torch
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from ray import serve as ray_serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from ray.serve.metrics import Counter, Gauge, Histogram

from lbae.core.bundle import Bundle
from lbae.distributed.session import RUNS_A_NETWORK, cluster_cpus, cluster_gpus, cluster_nodes
from lbae.errors import LbaeError, UserError
from lbae.io import bundle as bundle_io
from lbae.io.artifact import read_manifest
from lbae.io.storage import absolute
from lbae.web.app import create_app
from lbae.web.backend import About, Backend, BundleBackend, OnBatch
from lbae.web.guard import DEFAULT_LIMITS, Limits, Observe, api_keys

Topology = Literal["fused", "split"]

_APP = "lbae"
_SHELF, _SERVICE = "Shelf", "LBAE"
_VERBS = {"Codec": ("encode", "decode"), "Sampler": ("draw",), "Interpolator": ("path",), "Editor": ("edit",)}
_MAX_THREADS = 4
_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_BUCKETS_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Deployed(BaseModel):
    """Arguments of the application in a Serve config file."""

    model_config = ConfigDict(extra="forbid")

    bundle: str
    replicas: int = 1
    topology: Topology = "fused"
    insecure: bool = False


def deployed(arguments: Deployed) -> Application:
    """For ``serve deploy``; API keys come from LBAE_API_KEYS, and must unless ``insecure``."""
    limits = Limits(keys=api_keys(None, "a host in the Serve config", arguments.insecure))
    return application(arguments.bundle, arguments.replicas, arguments.topology, limits)


def application(
    bundle: str, replicas: int = 1, topology: Topology = "fused", limits: Limits = DEFAULT_LIMITS
) -> Application:
    """The Serve application for the bundle at a URI."""
    uri = absolute(bundle)
    read_manifest(uri, bundle_io.KIND)
    # Room for every request that the application lets in, and for those that it must tell to come again.
    requests = 2 * limits.max_running
    compute = {
        "num_cpus": 1 if cluster_cpus() > 1 else 0.5,
        "num_gpus": 1 if cluster_gpus() else 0,
        "runtime_env": RUNS_A_NETWORK,
    }
    # Of the replica that multiplies: its part of a node, of which a batch does not fill more than a few.
    threads = max(1, min(_MAX_THREADS, cluster_cpus() // max(replicas, cluster_nodes())))
    shelf = ray_serve.deployment(_Shelf, name=_SHELF, ray_actor_options={"num_cpus": 0}).bind(uri)

    def verbs(name: str) -> Application:
        deployment = ray_serve.deployment(
            _Verbs,
            name=name,
            num_replicas=replicas,
            ray_actor_options=compute if name == "Codec" else {"num_cpus": 0},
            max_ongoing_requests=requests,
        )
        return deployment.bind(shelf, threads)

    async def open_fused() -> Backend:
        return await _taken_from(_handle(_SHELF), threads)

    def build() -> FastAPI:
        return create_app(open_fused if topology == "fused" else _open_split, limits, _observe())

    ingress = ray_serve.deployment(
        ray_serve.ingress(build)(_Ingress),
        name=_SERVICE,
        num_replicas=replicas,
        ray_actor_options=compute if topology == "fused" else {"num_cpus": 0},
        max_ongoing_requests=requests,
        max_queued_requests=requests,
    )
    behind = [verbs(name) for name in _VERBS] if topology == "split" else []
    return ingress.bind(shelf, *behind)


class _Ingress:
    """Takes requests; the deployments it is bound to are started before it."""

    def __init__(self, *behind: DeploymentHandle) -> None:
        pass


class _Shelf:
    """Loads the bundle once and keeps it in the object store."""

    def __init__(self, uri: str) -> None:
        self._bundle = ray.put(bundle_io.load_bundle(uri, "cpu"))

    def get(self) -> list[ray.ObjectRef]:
        """The bundle, by reference: a bare reference would be replaced by what it refers to."""
        return [self._bundle]


async def _taken_from(shelf: DeploymentHandle, threads: int) -> BundleBackend:
    torch.set_num_threads(threads)
    (reference,) = await shelf.get.remote()
    bundle: Bundle = await reference
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return BundleBackend(dataclasses.replace(bundle, codec=bundle.codec.to(device)), _on_batch())


class _Verbs:
    """A deployment of some verbs of a bundle. Mistakes in requests are returned: if raised, Serve would log them."""

    async def __init__(self, shelf: DeploymentHandle, threads: int) -> None:  # type: ignore[misc]  # Serve awaits it
        self.backend = await _taken_from(shelf, threads)

    async def about(self) -> About:
        """The facts of the bundle."""
        return self.backend.about

    async def call(self, verb: str, *arguments: Any) -> Any:
        """Run a verb; its result, or the UserError."""
        try:
            return await getattr(self.backend, verb)(*arguments)
        except UserError as error:
            return error


class _Remote:
    """A backend whose verbs run in their deployments."""

    def __init__(self, about: About, handles: dict[str, DeploymentHandle]) -> None:
        self.about = about
        self._handles = {verb: handles[name] for name, verbs in _VERBS.items() for verb in verbs}

    async def _call(self, verb: str, *arguments: Any) -> np.ndarray:
        result = await self._handles[verb].call.remote(verb, *arguments)
        if isinstance(result, UserError):
            raise result
        return result

    async def draw(self, count: int, seed: int, given: Mapping[str, bool], component: int | None) -> np.ndarray:
        """Latents of the prior, or of one of its components."""
        return await self._call("draw", count, seed, given, component)

    async def path(self, waypoints: np.ndarray, steps: int, seed: int) -> np.ndarray:
        """Latents through all waypoints."""
        return await self._call("path", waypoints, steps, seed)

    async def edit(
        self, latents: np.ndarray, set_: Sequence[str], unset: Sequence[str], strength: float, method: str
    ) -> np.ndarray:
        """Latents with attributes set and unset."""
        return await self._call("edit", latents, set_, unset, strength, method)

    async def encode(self, images: np.ndarray) -> np.ndarray:
        """Latents of images."""
        return await self._call("encode", images)

    async def decode(self, latents: np.ndarray) -> np.ndarray:
        """Images of latents."""
        return await self._call("decode", latents)


def _handle(name: str) -> DeploymentHandle:
    return ray_serve.get_deployment_handle(name, ray_serve.get_replica_context().app_name)


async def _open_split() -> Backend:
    handles = {name: _handle(name) for name in _VERBS}
    return _Remote(await handles["Sampler"].about.remote(), handles)


def _observe() -> Observe:
    """Counts and times requests as Ray's metrics, which the nodes' agents show to Prometheus."""
    tags = ("route", "status")
    requests = Counter("lbae_requests", description="Requests answered.", tag_keys=tags)
    latency = Histogram(
        "lbae_request_seconds", description="Time to answer a request.", boundaries=list(_BUCKETS_S), tag_keys=tags
    )

    def observe(route: str, status: int, seconds: float) -> None:
        of = {"route": route, "status": str(status)}
        requests.inc(1, of)
        latency.observe(seconds, of)

    return observe


def _on_batch() -> OnBatch:
    """The codec's batches as Ray's metrics."""
    images = Counter("lbae_images", description="Images through the codec.", tag_keys=("verb",))
    rows_of = Histogram(
        "lbae_batch_rows", description="Rows of a codec batch.", boundaries=list(_BUCKETS_ROWS), tag_keys=("verb",)
    )
    waiting_for = Gauge("lbae_waiting", description="Requests that wait behind a codec batch.", tag_keys=("verb",))

    def on_batch(verb: str, rows: int, waiting: int) -> None:
        of = {"verb": verb}
        images.inc(rows, of)
        rows_of.observe(rows, of)
        waiting_for.set(waiting, of)

    return on_batch


@contextmanager
def serving(
    bundle: str, port: int, host: str, replicas: int, topology: Topology = "fused", limits: Limits = DEFAULT_LIMITS
) -> Iterator[dict[str, Any]]:
    """Serve a bundle on the connected Ray, and take down what was started.

    Yields the URL and the bundle's fingerprint once the service answers there. LbaeError when Ray Serve already runs on this
    cluster at another address: its proxy cannot be moved.
    """
    running = bool(ray_serve.status().proxies)
    ray_serve.start(http_options={"host": host, "port": port})
    ray_serve.run(application(bundle, replicas, topology, limits), name=_APP, route_prefix="/")
    try:
        url = f"http://{host}:{port}"
        _check(url, bundle)
        yield {"url": url, "bundle": read_manifest(bundle, bundle_io.KIND).fingerprint, "topology": topology}
    finally:
        if running:
            ray_serve.delete(_APP)
        else:
            ray_serve.shutdown()


def _check(url: str, bundle: str) -> None:
    try:
        answer = httpx.get(f"{url}/readyz", timeout=30)
    except httpx.HTTPError as error:
        raise LbaeError(
            f"nothing answers at {url} ({error}); Ray Serve may already run on this cluster at another port"
        ) from error
    if answer.status_code != 200:
        raise LbaeError(f"{url}/readyz answered {answer.status_code} for bundle {bundle}")
