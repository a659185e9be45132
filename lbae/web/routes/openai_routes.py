"""OpenAI's image API, for programs that use it already. A prompt is a list of attributes."""

import time
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI
from fastapi.responses import JSONResponse

from lbae.web.answers.answer_formats import answer_bytes, image_fields
from lbae.web.answers.error_answers import RequestError, blames
from lbae.web.backend.backend import Backend, CurrentBackend
from lbae.web.limits import Limits
from lbae.web.memory import MemoryShare, RequestMemory
from lbae.web.requests.batches import item_latents
from lbae.web.requests.bodies import body_of
from lbae.web.requests.prompts import parse_prompt
from lbae.web.requests.request_models import (
    GenerationRequest,
    ImageFormat,
    ImageOrLatent,
    OpenAIVariationRequest,
    seed_or_random,
)
from lbae.web.routes import openapi_document
from lbae.web.threads import in_writer

_MODEL = "lbae"


def add_openai_routes(app: FastAPI, limits: Limits) -> None:
    """Add ``POST /v1/images/generations``, ``POST /v1/images/variations`` and ``GET /v1/models``."""
    started = int(time.time())

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        model = {"id": _MODEL, "object": "model", "created": started, "owned_by": "lbae"}
        return {"object": "list", "data": [model]}

    @app.post(
        "/v1/images/generations",
        responses={404: openapi_document.failure("no such model")},
        openapi_extra=openapi_document.request_body(GenerationRequest),
    )
    async def generate(
        request: Annotated[GenerationRequest, Depends(body_of(GenerationRequest))],
        backend: CurrentBackend,
        share: RequestMemory,
    ) -> JSONResponse:
        _check(request, backend)
        kind = request.output_format
        share.claim(answer_bytes(kind, request.n, backend.facts.config, limits.max_answer_pixels, "n"))
        seed = seed_or_random(request.seed)
        with blames("prompt"):
            given = parse_prompt(request.prompt, backend.facts.conditions)
            latents = await backend.draw(request.n, seed, given, None, 1.0)
            if given:
                latents = await backend.move_to_given(latents, given)
        return await _answer(latents, kind, seed, backend, share)

    @app.post(
        "/v1/images/variations",
        responses={404: openapi_document.failure("no such model")},
        openapi_extra=openapi_document.request_body(OpenAIVariationRequest),
    )
    async def vary(
        request: Annotated[OpenAIVariationRequest, Depends(body_of(OpenAIVariationRequest))],
        backend: CurrentBackend,
        share: RequestMemory,
    ) -> JSONResponse:
        _check(request, backend)
        share.claim(answer_bytes("png", request.n, backend.facts.config, limits.max_answer_pixels, "n"))
        seed = seed_or_random(request.seed)
        latents = await item_latents([ImageOrLatent(image=request.image)], None, backend, limits)
        with blames("image"):
            varied = await backend.vary(latents, request.n, seed, request.strength)
        return await _answer(varied, "png", seed, backend, share)


def _check(request: GenerationRequest | OpenAIVariationRequest, backend: Backend) -> None:
    """RequestError for another model or another size."""
    size = _size(backend)
    if request.model not in (None, _MODEL, backend.facts.fingerprint):
        raise RequestError(404, f"model {request.model!r} does not exist; allowed: {_MODEL}", "model")
    if request.size not in ("auto", size):
        raise RequestError(422, f"size is {request.size!r}; allowed: auto, {size}", "size")


def _size(backend: Backend) -> str:
    height, width, _ = backend.facts.config.image_shape
    return f"{width}x{height}"


async def _answer(
    latents: np.ndarray, kind: ImageFormat, seed: int, backend: Backend, share: MemoryShare
) -> JSONResponse:
    images = await in_writer(share, image_fields, await backend.decode(latents), kind)
    answer = {
        "created": int(time.time()),
        "data": [{"b64_json": image["image"]} for image in images],
        "output_format": kind,
        "size": _size(backend),
        "seed": seed,
    }
    return await in_writer(share, JSONResponse, answer, 200, {"X-Seed": str(seed)})
