"""Routes of the codec: batches of images or latents, with one result or error per item."""

from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI
from fastapi.responses import JSONResponse

from lbae.web.answers import answer_formats
from lbae.web.answers.answer_formats import check_pixels
from lbae.web.backend.backend import Backend, CurrentBackend
from lbae.web.limits import Limits
from lbae.web.requests.batches import batch_images, batch_latents
from lbae.web.requests.bodies import body_of
from lbae.web.requests.request_models import DecodeRequest, EncodeRequest, ImageFormat, ReconstructRequest
from lbae.web.routes import openapi_document
from lbae.web.threads import in_writer


def add_codec_routes(app: FastAPI, limits: Limits) -> None:
    """Add ``/v1/encode``, ``/v1/reconstruct`` and ``/v1/decode``."""

    def check_size(count: int, param: str, backend: Backend) -> None:
        check_pixels("png", count, backend.facts.config.content_size, limits.max_answer_pixels, param)

    @app.post("/v1/encode", openapi_extra=openapi_document.request_body(EncodeRequest))
    async def encode(
        request: Annotated[EncodeRequest, Depends(body_of(EncodeRequest))], backend: CurrentBackend
    ) -> JSONResponse:
        images, errors = await batch_images(request.images, backend, limits)
        good = answer_formats.latent_fields(await backend.encode(np.stack(images))) if images else []
        return JSONResponse(answer_formats.merged(good, errors, len(request.images)))

    @app.post("/v1/reconstruct", openapi_extra=openapi_document.request_body(ReconstructRequest))
    async def reconstruct(
        request: Annotated[ReconstructRequest, Depends(body_of(ReconstructRequest))], backend: CurrentBackend
    ) -> JSONResponse:
        check_size(len(request.images), "images", backend)
        images, errors = await batch_images(request.images, backend, limits)
        latents = list(await backend.encode(np.stack(images))) if images else []
        return await _decoded(latents, errors, len(request.images), request.format, backend)

    @app.post("/v1/decode", openapi_extra=openapi_document.request_body(DecodeRequest))
    async def decode(
        request: Annotated[DecodeRequest, Depends(body_of(DecodeRequest))], backend: CurrentBackend
    ) -> JSONResponse:
        check_size(len(request.latents), "latents", backend)
        latents, errors = await batch_latents(request.latents, backend)
        return await _decoded(latents, errors, len(request.latents), request.format, backend)


async def _decoded(
    latents: list[np.ndarray],
    errors: dict[int, dict[str, Any]],
    count: int,
    kind: ImageFormat,
    backend: Backend,
) -> JSONResponse:
    images = await backend.decode(np.stack(latents)) if latents else np.empty(0)
    good = await in_writer(answer_formats.image_fields, images, kind)
    return JSONResponse(answer_formats.merged(good, errors, count))
