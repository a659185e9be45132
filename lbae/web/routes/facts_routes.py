"""Routes for health checks, and for the facts of the bundle that clients may see."""

from dataclasses import asdict
from typing import Any

from fastapi import FastAPI

from lbae.web.answers import answer_formats
from lbae.web.backend.backend import CurrentBackend
from lbae.web.memory import RequestMemory
from lbae.web.threads import in_writer


def add_facts_routes(app: FastAPI) -> None:
    """Add ``/healthz``, ``/readyz``, ``/v1/model``, ``/v1/attributes`` and ``/v1/examples``."""

    @app.get("/healthz")
    async def alive() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz")
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    @app.get("/v1/model")
    async def model(backend: CurrentBackend) -> dict[str, Any]:
        facts = asdict(backend.facts)
        return {name: value for name, value in facts.items() if name not in ("attributes", "examples")}

    @app.get("/v1/attributes")
    async def attributes(backend: CurrentBackend) -> dict[str, Any]:
        return {"attributes": backend.facts.attributes}

    @app.get("/v1/examples")
    async def examples(backend: CurrentBackend, share: RequestMemory) -> dict[str, Any]:
        images = backend.facts.examples
        share.claim(answer_formats.image_bytes(len(images), backend.facts.config))
        return {"examples": await in_writer(share, answer_formats.image_fields, images, "png")}
