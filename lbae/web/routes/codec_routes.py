"""Routes of the codec: batches of images or latents, with one result or error per item."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI
from fastapi.responses import JSONResponse

from lbae.web.answers import answer_formats
from lbae.web.answers.answer_formats import answer_bytes, image_bytes
from lbae.web.backend.backend import CurrentBackend
from lbae.web.limits import Limits
from lbae.web.memory import MemoryShare, RequestMemory
from lbae.web.requests.batches import batch_images, batch_latents
from lbae.web.requests.bodies import body_of
from lbae.web.requests.request_models import DecodeRequest, EncodeRequest, ImageFormat, ReconstructRequest
from lbae.web.routes import openapi_document
from lbae.web.threads import in_writer


def add_codec_routes(app: FastAPI, limits: Limits) -> None:
    """Add ``/v1/encode``, ``/v1/reconstruct`` and ``/v1/decode``."""

    @app.post("/v1/encode", openapi_extra=openapi_document.request_body(EncodeRequest))
    async def encode(
        request: Annotated[EncodeRequest, Depends(body_of(EncodeRequest))],
        backend: CurrentBackend,
        share: RequestMemory,
    ) -> JSONResponse:
        share.claim(image_bytes(len(request.images), backend.facts.config))
        images, errors = await batch_images(request.images, backend, limits)
        good = answer_formats.latent_fields(await backend.encode(np.stack(images))) if images else []
        return JSONResponse(answer_formats.merged(good, errors, len(request.images)))

    @app.post("/v1/reconstruct", openapi_extra=openapi_document.request_body(ReconstructRequest))
    async def reconstruct(
        request: Annotated[ReconstructRequest, Depends(body_of(ReconstructRequest))],
        backend: CurrentBackend,
        share: RequestMemory,
    ) -> JSONResponse:
        count, kind = len(request.images), request.format
        share.claim(answer_bytes(kind, count, backend.facts.config, limits.max_answer_pixels, "images"))
        images = await batch_images(request.images, backend, limits)
        return await _answered(backend.reconstruct, *images, kind, share)

    @app.post("/v1/decode", openapi_extra=openapi_document.request_body(DecodeRequest))
    async def decode(
        request: Annotated[DecodeRequest, Depends(body_of(DecodeRequest))],
        backend: CurrentBackend,
        share: RequestMemory,
    ) -> JSONResponse:
        count, kind = len(request.latents), request.format
        share.claim(answer_bytes(kind, count, backend.facts.config, limits.max_answer_pixels, "latents"))
        return await _answered(backend.decode, *await batch_latents(request.latents, backend), kind, share)


async def _answered(
    verb: Callable[[np.ndarray], Awaitable[np.ndarray]],
    items: list[np.ndarray],
    errors: dict[int, dict[str, Any]],
    kind: ImageFormat,
    share: MemoryShare,
) -> JSONResponse:
    """The images that a verb makes of a batch's items, and the errors of those that cannot be read."""
    count = len(items) + len(errors)
    good = []
    if items:
        # Items and images have no name here, so that they are gone before the JSON is written.
        good = await in_writer(share, answer_formats.image_fields, await verb(_stacked(items)), kind)
    content = answer_formats.merged(good, errors, count)
    return await in_writer(share, JSONResponse, content)


def _stacked(items: list[np.ndarray]) -> np.ndarray:
    """The items as one array; the list is emptied."""
    stacked = np.stack(items)
    items.clear()
    return stacked
