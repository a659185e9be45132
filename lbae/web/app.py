"""The HTTP application. It opens a backend (a bundle, or something that answers as one) and knows nothing of
Ray.
"""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

import lbae
from lbae.errors import unknown
from lbae.web import answers
from lbae.web import openapi_document as document
from lbae.web.answers import check_pixels
from lbae.web.backend import Backend
from lbae.web.bodies import body_of, image_of, latent_of
from lbae.web.error_answers import RequestError, blames, body, handle_errors
from lbae.web.middleware import DEFAULT_LIMITS, Guard, Limits, Observe
from lbae.web.openai_api import add_openai
from lbae.web.page.page_routes import add_page
from lbae.web.request_models import (
    DecodeRequest,
    EditRequest,
    EncodeRequest,
    InterpolateRequest,
    Picture,
    ReconstructRequest,
    SampleRequest,
    Source,
    chosen,
)
from lbae.web.threads import in_reader, in_writer

_FRAMES = 64  # of a stream that are decoded at a time
_IMAGE = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in answers.MEDIA.values()}
_FILES: dict[int | str, Any] = {200: {"content": _IMAGE | {"application/zip": {}, "application/json": {}}}}


def create_app(
    opened: Callable[[], Awaitable[Callable[[], Backend]]],
    limits: Limits = DEFAULT_LIMITS,
    observe: Observe = lambda path, status, seconds: None,
) -> FastAPI:
    """The service; ``opened`` is awaited before the first request, and what it gives says which backend
    answers now.
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
        dependencies=[Depends(_backend)],
        lifespan=lifespan,
    )
    app.add_middleware(Guard, limits=limits, observe=observe)
    handle_errors(app)
    _add_facts(app)
    _add_prior(app, limits)
    _add_codec(app, limits)
    add_openai(app, _backend, limits)
    document.describe(app, keys=bool(limits.keys))
    add_page(app)
    return app


def _backend(request: Request) -> Backend:
    """What answers the whole of this request, though the bundle may change meanwhile."""
    backend: Backend = request.app.state.current()
    request.state.bundle = backend.about.fingerprint  # for the header of its answer
    return backend


Answering = Annotated[Backend, Depends(_backend)]


def _add_facts(app: FastAPI) -> None:
    @app.get("/healthz")
    async def alive() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz")
    async def ready(backend: Answering) -> dict[str, str]:
        return {"status": "ready", "bundle": backend.about.fingerprint}

    @app.get("/v1/model")
    async def model(backend: Answering) -> dict[str, Any]:
        facts = asdict(backend.about)
        return {name: value for name, value in facts.items() if name not in ("attributes", "examples")}

    @app.get("/v1/attributes")
    async def attributes(backend: Answering) -> dict[str, Any]:
        return {"attributes": backend.about.attributes}

    @app.get("/v1/examples")
    async def examples(backend: Answering) -> dict[str, Any]:
        return {"examples": await in_writer(answers.image_fields, backend.about.examples, "png")}


def _add_prior(app: FastAPI, limits: Limits) -> None:
    @app.post(
        "/v1/sample", responses=_FILES, response_class=Response, openapi_extra=document.body(SampleRequest)
    )
    async def sample(
        request: Annotated[SampleRequest, Depends(body_of(SampleRequest))], backend: Answering
    ) -> Response:
        about, seed = backend.about, chosen(request.seed)
        check_pixels(request.format, request.n, about.config.content_size, limits.max_answer_pixels, "n")
        for name in request.given:
            _known(name, about.conditions, f"given.{name}")
        if request.component is not None and request.component >= about.components:
            message = f"component is {request.component}; allowed: 0 to {about.components - 1}"
            raise RequestError(422, message, "component")
        with blames("given"):
            latents = await backend.draw(request.n, seed, request.given, request.component)
        if request.format == "latents":
            answer: Response = JSONResponse({"latents": answers.latent_fields(latents)})
        else:
            images = await backend.decode(latents)
            answer = await in_writer(_drawn, images, request.format)
        answer.headers["X-Seed"] = str(seed)
        return answer

    @app.post(
        "/v1/interpolate",
        responses={200: {"content": _FILES[200]["content"] | {"application/x-ndjson": {}}}},
        response_class=Response,
        openapi_extra=document.body(InterpolateRequest),
    )
    async def interpolate(
        request: Annotated[InterpolateRequest, Depends(body_of(InterpolateRequest))], backend: Answering
    ) -> Response:
        frames = (len(request.items) - 1 + request.loop) * (request.steps - 1) + 1
        kind = "animation" if request.format == "webp" else request.format
        check_pixels(kind, frames, backend.about.config.content_size, limits.max_answer_pixels, "steps")
        waypoints = await _latents(request.items, "items", backend, limits)
        if request.loop:
            waypoints = np.concatenate([waypoints, waypoints[:1]])
        latents = await backend.path(waypoints, request.steps, request.seed)
        if request.format == "latents":
            answer: Response = JSONResponse({"latents": answers.latent_fields(latents)})
        elif request.format == "stream":
            answer = StreamingResponse(
                answers.lines(_frames(latents, backend)), media_type="application/x-ndjson"
            )
        else:
            make = {"strip": answers.strip, "webp": answers.animation, "zip": answers.archive}[request.format]
            answer = await in_writer(make, await backend.decode(latents))
        answer.headers["X-Seed"] = str(request.seed)
        return answer

    @app.post(
        "/v1/edit",
        responses=_FILES,
        response_class=Response,
        openapi_extra=document.body(EditRequest),
    )
    async def edit(
        request: Annotated[EditRequest, Depends(body_of(EditRequest))], backend: Answering
    ) -> Response:
        for param, names in (("set", request.set), ("unset", request.unset)):
            for index, name in enumerate(names):
                _known(name, backend.about.attributes, f"{param}.{index}")
        latents = await _latents([request.item], "item", backend, limits)
        with blames("set"):
            asked = request.set, request.unset, request.strength, request.method, request.seed
            edited = await backend.edit(latents, *asked)
        changed = int((edited != latents).sum())
        if request.format == "latents":
            answer: Response = JSONResponse(
                {"latents": answers.latent_fields(edited), "bits_changed": changed}
            )
        else:
            answer = answers.picture((await backend.decode(edited))[0], request.format)
        answer.headers["X-Seed"] = str(request.seed)
        answer.headers["X-Bits-Changed"] = str(changed)
        return answer


def _add_codec(app: FastAPI, limits: Limits) -> None:
    def fits(count: int, param: str, backend: Backend) -> None:
        check_pixels("png", count, backend.about.config.content_size, limits.max_answer_pixels, param)

    @app.post("/v1/encode", openapi_extra=document.body(EncodeRequest))
    async def encode(
        request: Annotated[EncodeRequest, Depends(body_of(EncodeRequest))], backend: Answering
    ) -> JSONResponse:
        images, errors = await _images(request.images, backend, limits)
        good = answers.latent_fields(await backend.encode(images)) if len(images) else []
        return JSONResponse(answers.merged(good, errors, len(request.images)))

    @app.post("/v1/reconstruct", openapi_extra=document.body(ReconstructRequest))
    async def reconstruct(
        request: Annotated[ReconstructRequest, Depends(body_of(ReconstructRequest))], backend: Answering
    ) -> JSONResponse:
        fits(len(request.images), "images", backend)
        images, errors = await _images(request.images, backend, limits)
        latents = await backend.encode(images) if len(images) else None
        return await _decoded(latents, errors, len(request.images), request.format, backend)

    @app.post("/v1/decode", openapi_extra=document.body(DecodeRequest))
    async def decode(
        request: Annotated[DecodeRequest, Depends(body_of(DecodeRequest))], backend: Answering
    ) -> JSONResponse:
        fits(len(request.latents), "latents", backend)
        found, errors = _each(request.latents, lambda text: latent_of(text, backend.about.config.latent_dim))
        return await _decoded(
            np.stack(found) if found else None, errors, len(request.latents), request.format, backend
        )


def _known(name: str, known: Iterable[str], param: str) -> None:
    if name not in (names := set(known)):
        raise RequestError(422, str(unknown("attribute", name, names)), param)


def _drawn(images: np.ndarray, kind: str) -> Response:
    if kind == "grid":
        return answers.sheet(images)
    if kind == "zip":
        return answers.archive(images)
    return answers.picture(images[0], kind)  # type: ignore[arg-type]


async def _frames(latents: np.ndarray, backend: Backend) -> AsyncIterator[np.ndarray]:
    for start in range(0, len(latents), _FRAMES):
        yield await backend.decode(latents[start : start + _FRAMES])


async def _latents(items: list[Source], param: str, backend: Backend, limits: Limits) -> np.ndarray:
    """Latents of images and packed latents, in their order; RequestError for the first that is neither."""
    config = backend.about.config
    latents = np.empty((len(items), config.latent_dim), dtype=np.int8)
    images = {}
    for index, item in enumerate(items):
        name = param if len(items) == 1 else f"{param}.{index}"
        if item.latent is not None:
            latents[index] = latent_of(item.latent, config.latent_dim, f"{name}.latent")
        elif item.image is not None:
            read = functools.partial(
                image_of, config=config, max_pixels=limits.max_pixels, param=f"{name}.image"
            )
            (images[index],) = await in_reader(_all, [item.image], read)
    if images:
        latents[list(images)] = await backend.encode(np.stack(list(images.values())))
    return latents


async def _images(
    texts: list[str], backend: Backend, limits: Limits
) -> tuple[np.ndarray, dict[int, dict[str, Any]]]:
    config = backend.about.config
    read = functools.partial(image_of, config=config, max_pixels=limits.max_pixels)
    found, errors = await in_reader(_each, texts, read)
    return np.stack(found) if found else np.empty(0), errors


def _all(texts: list[str], read: Callable[[str], np.ndarray]) -> list[np.ndarray]:
    return [read(text) for text in texts]


def _each(
    texts: list[str], read: Callable[[str], np.ndarray]
) -> tuple[list[np.ndarray], dict[int, dict[str, Any]]]:
    """What could be read, and an error by position for what could not."""
    found, errors = [], {}
    for index, text in enumerate(texts):
        try:
            found.append(read(text))
        except RequestError as error:
            errors[index] = body(error.status_code, str(error.detail), str(index))
    return found, errors


async def _decoded(
    latents: np.ndarray | None, errors: dict[int, dict[str, Any]], count: int, kind: Picture, backend: Backend
) -> JSONResponse:
    images = await backend.decode(latents) if latents is not None else np.empty(0)
    good = await in_writer(answers.image_fields, images, kind)
    return JSONResponse(answers.merged(good, errors, count))
