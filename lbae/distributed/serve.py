"""The HTTP application as a Ray Serve deployment whose replicas each hold the bundle."""

from typing import Any

from fastapi import FastAPI
from ray import serve as ray_serve
from ray.serve import Application

from lbae.distributed.session import cluster_cpus, cluster_gpus
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


def start(bundle: str, port: int = 8000, host: str = "127.0.0.1", replicas: int = 1) -> dict[str, Any]:
    """Serve a bundle on the connected Ray; returns when it answers."""
    ray_serve.start(http_options={"host": host, "port": port})
    ray_serve.run(application(bundle, replicas), name=_APP, route_prefix="/")
    manifest = read_manifest(bundle, bundle_io.KIND)
    return {"url": f"http://{host}:{port}", "bundle": manifest.fingerprint}


def stop() -> None:
    """Take the application down."""
    ray_serve.delete(_APP)
