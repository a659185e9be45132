"""Routes that make images: samples of the prior, paths between images, edits of attributes."""

from collections.abc import AsyncIterator, Iterable
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Response
from fastapi.responses import JSONResponse, StreamingResponse

from lbae.core.latents.attribute_names import match_name
from lbae.errors import UnusableAttribute
from lbae.web.answers import answer_formats as answers
from lbae.web.answers.answer_formats import check_pixels
from lbae.web.answers.error_answers import RequestError, blames
from lbae.web.backend.backend import Answering, Backend
from lbae.web.middleware import Limits
from lbae.web.requests.bodies import body_of
from lbae.web.requests.images_and_latents import latents_of
from lbae.web.requests.request_models import EditRequest, InterpolateRequest, SampleRequest, seed_or_random
from lbae.web.routes import openapi_document as document
from lbae.web.threads import in_writer

_STREAM_FRAMES = 64  # that are decoded together
_IMAGE = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in answers.MEDIA.values()}
_FILES: dict[int | str, Any] = {200: {"content": _IMAGE | {"application/zip": {}, "application/json": {}}}}
_STREAMS: dict[int | str, Any] = {200: {"content": _FILES[200]["content"] | {"application/x-ndjson": {}}}}


def add_prior_routes(app: FastAPI, limits: Limits) -> None:
    """``/v1/sample``, ``/v1/interpolate`` and ``/v1/edit``."""
    _add_sample(app, limits)
    _add_interpolate(app, limits)
    _add_edit(app, limits)


def _add_sample(app: FastAPI, limits: Limits) -> None:
    @app.post(
        "/v1/sample",
        responses=_FILES,
        response_class=Response,
        openapi_extra=document.request_body(SampleRequest),
    )
    async def sample(
        request: Annotated[SampleRequest, Depends(body_of(SampleRequest))], backend: Answering
    ) -> Response:
        facts, seed = backend.facts, seed_or_random(request.seed)
        check_pixels(request.format, request.n, facts.config.content_size, limits.max_answer_pixels, "n")
        for name in request.given:
            _known_name(name, facts.conditions, f"given.{name}")
        if request.component is not None and request.component >= facts.components:
            message = f"component is {request.component}; allowed: 0 to {facts.components - 1}"
            raise RequestError(422, message, "component")
        with blames("given"):
            latents = await backend.draw(request.n, seed, request.given, request.component)
        if request.format == "latents":
            answer: Response = JSONResponse({"latents": answers.latent_fields(latents)})
        else:
            images = await backend.decode(latents)
            answer = await in_writer(_sample_answer, images, request.format)
        answer.headers["X-Seed"] = str(seed)
        return answer


def _add_interpolate(app: FastAPI, limits: Limits) -> None:
    @app.post(
        "/v1/interpolate",
        responses=_STREAMS,
        response_class=Response,
        openapi_extra=document.request_body(InterpolateRequest),
    )
    async def interpolate(
        request: Annotated[InterpolateRequest, Depends(body_of(InterpolateRequest))], backend: Answering
    ) -> Response:
        frames = (len(request.items) - 1 + request.loop) * (request.steps - 1) + 1
        kind = "animation" if request.format == "webp" else request.format
        check_pixels(kind, frames, backend.facts.config.content_size, limits.max_answer_pixels, "steps")
        waypoints = await latents_of(request.items, "items", backend, limits)
        if request.loop:
            waypoints = np.concatenate([waypoints, waypoints[:1]])
        latents = await backend.path(waypoints, request.steps, request.seed)
        if request.format == "latents":
            answer: Response = JSONResponse({"latents": answers.latent_fields(latents)})
        elif request.format == "stream":
            frames_made = _decoded_in_turn(latents, backend)
            answer = StreamingResponse(answers.lines(frames_made), media_type="application/x-ndjson")
        else:
            make = {
                "strip": answers.strip_response,
                "webp": answers.animation_response,
                "zip": answers.zip_response,
            }[request.format]
            answer = await in_writer(make, await backend.decode(latents))
        answer.headers["X-Seed"] = str(request.seed)
        return answer


def _add_edit(app: FastAPI, limits: Limits) -> None:
    @app.post(
        "/v1/edit",
        responses=_FILES,
        response_class=Response,
        openapi_extra=document.request_body(EditRequest),
    )
    async def edit(
        request: Annotated[EditRequest, Depends(body_of(EditRequest))], backend: Answering
    ) -> Response:
        fields = {
            _known_name(name, backend.facts.attributes, f"{param}.{index}"): f"{param}.{index}"
            for param, names in (("set", request.set), ("unset", request.unset))
            for index, name in enumerate(names)
        }
        latents = await latents_of([request.item], "item", backend, limits)
        with blames("set"):
            asked = request.set, request.unset, request.strength, request.method, request.seed
            try:
                edited = await backend.edit(latents, *asked)
            except UnusableAttribute as error:
                raise RequestError(422, str(error), fields[error.attribute]) from error
        changed = int((edited != latents).sum())
        if request.format == "latents":
            answer: Response = JSONResponse(
                {"latents": answers.latent_fields(edited), "bits_changed": changed}
            )
        else:
            (image,) = await backend.decode(edited)
            answer = await in_writer(answers.picture_response, image, request.format)
        answer.headers["X-Seed"] = str(request.seed)
        answer.headers["X-Bits-Changed"] = str(changed)
        return answer


def _known_name(name: str, known: Iterable[str], param: str) -> str:
    with blames(param):
        return match_name(name, known)


def _sample_answer(images: np.ndarray, kind: str) -> Response:
    if kind == "grid":
        return answers.grid_response(images)
    if kind == "zip":
        return answers.zip_response(images)
    return answers.picture_response(images[0], kind)  # type: ignore[arg-type]


async def _decoded_in_turn(latents: np.ndarray, backend: Backend) -> AsyncIterator[np.ndarray]:
    for start in range(0, len(latents), _STREAM_FRAMES):
        yield await backend.decode(latents[start : start + _STREAM_FRAMES])
