"""The route that draws samples from the prior."""

from typing import Annotated

from fastapi import Depends, FastAPI, Response

from lbae.core.latents.attribute_names import match_name
from lbae.web.answers.answer_formats import answer_bytes, latents_response
from lbae.web.answers.error_answers import RequestError, blames
from lbae.web.backend.backend import CurrentBackend
from lbae.web.limits import Limits
from lbae.web.memory import RequestMemory
from lbae.web.requests.bodies import body_of
from lbae.web.requests.request_models import SampleRequest, seed_or_random
from lbae.web.routes import openapi_document


def add_sample_route(app: FastAPI, limits: Limits) -> None:
    """Add ``/v1/sample``."""

    @app.post(
        "/v1/sample",
        responses=openapi_document.IMAGE_ANSWERS,
        response_class=Response,
        openapi_extra=openapi_document.request_body(SampleRequest),
    )
    async def sample(
        request: Annotated[SampleRequest, Depends(body_of(SampleRequest))],
        backend: CurrentBackend,
        share: RequestMemory,
    ) -> Response:
        facts, seed = backend.facts, seed_or_random(request.seed)
        share.claim(answer_bytes(request.format, request.n, facts.config, limits.max_answer_pixels, "n"))
        for name in request.given:
            with blames(f"given.{name}"):
                match_name(name, facts.conditions)
        if request.component is not None and request.component >= facts.components:
            message = f"component is {request.component}; allowed: 0 to {facts.components - 1}"
            raise RequestError(422, message, "component")
        with blames("given"):
            latents = await backend.draw(
                request.n, seed, request.given, request.component, request.temperature
            )
            if request.given:
                latents = await backend.move_to_given(latents, request.given)
        answer = await latents_response(latents, request.format, backend, share)
        answer.headers["X-Seed"] = str(seed)
        return answer
