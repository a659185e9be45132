"""The route that draws variations of an image."""

from typing import Annotated

from fastapi import Depends, FastAPI, Response

from lbae.web.answers.answer_formats import answer_bytes, latents_response
from lbae.web.answers.error_answers import blames
from lbae.web.backend.backend import CurrentBackend
from lbae.web.limits import Limits
from lbae.web.memory import RequestMemory
from lbae.web.requests.batches import item_latents
from lbae.web.requests.bodies import body_of
from lbae.web.requests.request_models import VariationRequest, seed_or_random
from lbae.web.routes import openapi_document


def add_variation_route(app: FastAPI, limits: Limits) -> None:
    """Add ``/v1/variations``."""

    @app.post(
        "/v1/variations",
        responses=openapi_document.IMAGE_ANSWERS,
        response_class=Response,
        openapi_extra=openapi_document.request_body(VariationRequest),
    )
    async def vary(
        request: Annotated[VariationRequest, Depends(body_of(VariationRequest))],
        backend: CurrentBackend,
        share: RequestMemory,
    ) -> Response:
        seed = seed_or_random(request.seed)
        config = backend.facts.config
        share.claim(answer_bytes(request.format, request.n, config, limits.max_answer_pixels, "n"))
        latents = await item_latents([request.item], "item", backend, limits)
        with blames("item"):
            varied = await backend.vary(latents, request.n, seed, request.strength)
        answer = await latents_response(varied, request.format, backend, share)
        answer.headers["X-Seed"] = str(seed)
        return answer
