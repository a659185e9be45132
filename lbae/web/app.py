"""The HTTP application over a backend, such as a bundle in this process. It does not import Ray."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from starlette.middleware.cors import CORSMiddleware

import lbae
from lbae.web.answers.error_answers import handle_errors
from lbae.web.backend.backend import Backend, current_backend
from lbae.web.limits import DEFAULT_LIMITS, Limits
from lbae.web.middleware import Guard, HeadAsGet, Observe
from lbae.web.page.page_routes import add_page
from lbae.web.routes import openapi_document
from lbae.web.routes.codec_routes import add_codec_routes
from lbae.web.routes.edit_routes import add_edit_route
from lbae.web.routes.facts_routes import add_facts_routes
from lbae.web.routes.interpolate_routes import add_interpolate_route
from lbae.web.routes.openai_routes import add_openai_routes
from lbae.web.routes.sample_routes import add_sample_route
from lbae.web.routes.variation_routes import add_variation_route

_READABLE = (  # by the pages of allowed origins
    *("X-Bundle", "X-Seed", "X-Bits-Changed", "X-Strength", "X-Confidence"),
    *("Server-Timing", "Retry-After"),
)


def create_app(
    start_backend: Callable[[], Awaitable[Callable[[], Backend]]],
    limits: Limits = DEFAULT_LIMITS,
    observe: Observe = lambda path, status, seconds: None,
) -> FastAPI:
    """Return the FastAPI application over a backend.

    Args:
        start_backend: awaited before the first request; returns a function that returns the current backend.
        limits: who may use the service, and limits of size, number and time.
        observe: called with the route, status and seconds of every request.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.current = await start_backend()
        yield

    app = FastAPI(
        title="Latent Bernoulli Autoencoder",
        version=lbae.__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # the redirect would repeat the client's Host
        # On every route, so that X-Bundle names the bundle that served the request, even after a hot swap.
        dependencies=[Depends(current_backend)],
        lifespan=lifespan,
    )
    app.add_middleware(Guard, limits=limits, observe=observe)
    if limits.origins:  # outside the guard, so that pages can read its refusals and preflights need no key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=limits.origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("*",),
            allow_private_network=True,
            expose_headers=_READABLE,
        )
    app.add_middleware(HeadAsGet)
    handle_errors(app)
    add_facts_routes(app)
    add_sample_route(app, limits)
    add_variation_route(app, limits)
    add_interpolate_route(app, limits)
    add_edit_route(app, limits)
    add_codec_routes(app, limits)
    add_openai_routes(app, limits)
    openapi_document.write_document(app, keys=bool(limits.keys))
    add_page(app)
    return app
