"""The HTTP application over a backend: a bundle in this process, or something that answers like one.

It knows nothing of Ray.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from fastapi import Depends, FastAPI

import lbae
from lbae.web.answers import answer_formats as answers
from lbae.web.answers.error_answers import handle_errors
from lbae.web.backend.backend import Answering, Backend, current_backend
from lbae.web.middleware import DEFAULT_LIMITS, Guard, HeadAsGet, Limits, Observe
from lbae.web.page.page_routes import add_page
from lbae.web.routes import openapi_document as document
from lbae.web.routes.codec_routes import add_codec_routes
from lbae.web.routes.openai_routes import add_openai_routes
from lbae.web.routes.prior_routes import add_prior_routes
from lbae.web.threads import in_writer


def create_app(
    opened: Callable[[], Awaitable[Callable[[], Backend]]],
    limits: Limits = DEFAULT_LIMITS,
    observe: Observe = lambda path, status, seconds: None,
) -> FastAPI:
    """The service.

    Args:
        opened: awaited before the first request; returns a function that gives the current backend.
        limits: of keys, sizes and times.
        observe: called with route, status and seconds of every request.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.current = await opened()
        yield

    app = FastAPI(
        title="Latent Bernoulli Autoencoder",
        version=lbae.__version__,
        docs_url=None,
        redoc_url=None,
        dependencies=[Depends(current_backend)],
        lifespan=lifespan,
    )
    app.add_middleware(Guard, limits=limits, observe=observe)
    app.add_middleware(HeadAsGet)
    handle_errors(app)
    _add_facts(app)
    add_prior_routes(app, limits)
    add_codec_routes(app, limits)
    add_openai_routes(app, limits)
    document.write_document(app, keys=bool(limits.keys))
    add_page(app)
    return app


def _add_facts(app: FastAPI) -> None:
    @app.get("/healthz")
    async def alive() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz")
    async def ready(backend: Answering) -> dict[str, str]:
        return {"status": "ready", "bundle": backend.facts.fingerprint}

    @app.get("/v1/model")
    async def model(backend: Answering) -> dict[str, Any]:
        facts = asdict(backend.facts)
        return {name: value for name, value in facts.items() if name not in ("attributes", "examples")}

    @app.get("/v1/attributes")
    async def attributes(backend: Answering) -> dict[str, Any]:
        return {"attributes": backend.facts.attributes}

    @app.get("/v1/examples")
    async def examples(backend: Answering) -> dict[str, Any]:
        return {"examples": await in_writer(answers.image_fields, backend.facts.examples, "png")}
