"""The route that draws paths between images."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Response
from fastapi.responses import JSONResponse, StreamingResponse

from lbae.web.answers import answer_formats
from lbae.web.answers.answer_formats import STREAM_FRAMES, answer_bytes, image_bytes
from lbae.web.backend.backend import Backend, CurrentBackend
from lbae.web.limits import Limits
from lbae.web.memory import RequestMemory
from lbae.web.requests.batches import item_latents
from lbae.web.requests.bodies import body_of
from lbae.web.requests.request_models import InterpolateRequest
from lbae.web.routes import openapi_document
from lbae.web.threads import in_writer

_IMAGES = openapi_document.IMAGE_ANSWERS[200]["content"]
_STREAMS: dict[int | str, Any] = {200: {"content": _IMAGES | {"application/x-ndjson": {}}}}


def add_interpolate_route(app: FastAPI, limits: Limits) -> None:
    """Add ``/v1/interpolate``."""

    @app.post(
        "/v1/interpolate",
        responses=_STREAMS,
        response_class=Response,
        openapi_extra=openapi_document.request_body(InterpolateRequest),
    )
    async def interpolate(
        request: Annotated[InterpolateRequest, Depends(body_of(InterpolateRequest))],
        backend: CurrentBackend,
        share: RequestMemory,
    ) -> Response:
        frames = (len(request.items) - 1 + request.loop) * (request.steps - 1) + 1
        kind = "animation" if request.format == "webp" else request.format
        config = backend.facts.config
        share.claim(answer_bytes(kind, frames, config, limits.max_answer_pixels, "steps"))
        share.claim(image_bytes(len(request.items), config))
        waypoints = await item_latents(request.items, "items", backend, limits)
        if request.loop:
            waypoints = np.concatenate([waypoints, waypoints[:1]])
        latents = await backend.path(waypoints, request.steps, request.seed)
        if request.format == "latents":
            answer: Response = JSONResponse({"latents": answer_formats.latent_fields(latents)})
        elif request.format == "stream":
            frames_made = _decoded_in_turn(latents, backend)
            answer = StreamingResponse(
                answer_formats.lines(frames_made, share), media_type="application/x-ndjson"
            )
        else:
            make = {
                "strip": answer_formats.strip_response,
                "webp": answer_formats.animation_response,
                "zip": answer_formats.zip_response,
            }[request.format]
            answer = await in_writer(share, make, await backend.decode(latents))
        answer.headers["X-Seed"] = str(request.seed)
        return answer


async def _decoded_in_turn(latents: np.ndarray, backend: Backend) -> AsyncIterator[np.ndarray]:
    for start in range(0, len(latents), STREAM_FRAMES):
        yield await backend.decode(latents[start : start + STREAM_FRAMES])
