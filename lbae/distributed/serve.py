"""The HTTP application as a Ray Serve deployment whose replicas each hold the bundle."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from fastapi import FastAPI
from ray import serve as ray_serve
from ray.serve import Application

from lbae.distributed.session import cluster_cpus, cluster_gpus
from lbae.errors import LbaeError
from lbae.io import bundle as bundle_io
from lbae.io.artifact import read_manifest
from lbae.io.storage import absolute
from lbae.web.app import create_app

_APP = "lbae"


def application(bundle: str, replicas: int = 1) -> Application:
    """The Serve application for the bundle at a URI."""
    uri = absolute(bundle)
    read_manifest(uri, bundle_io.KIND)

    def build() -> FastAPI:
        return create_app(bundle_io.load_bundle(uri))

    @ray_serve.deployment(
        name="LBAE",
        num_replicas=replicas,
        ray_actor_options={"num_cpus": 1 if cluster_cpus() > 1 else 0.5, "num_gpus": 1 if cluster_gpus() else 0},
        max_ongoing_requests=32,
    )
    @ray_serve.ingress(build)
    class Service:
        pass

    return Service.bind()  # type: ignore[attr-defined]


@contextmanager
def serving(bundle: str, port: int, host: str, replicas: int) -> Iterator[dict[str, Any]]:
    """Serve a bundle on the connected Ray, and take down what was started.

    Yields the URL and the bundle's fingerprint once the service answers there. LbaeError when Ray Serve already runs on this
    cluster at another address: its proxy cannot be moved.
    """
    running = bool(ray_serve.status().proxies)
    ray_serve.start(http_options={"host": host, "port": port})
    ray_serve.run(application(bundle, replicas), name=_APP, route_prefix="/")
    try:
        url = f"http://{host}:{port}"
        _check(url, bundle)
        yield {"url": url, "bundle": read_manifest(bundle, bundle_io.KIND).fingerprint}
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
