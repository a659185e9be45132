"""The route that sets and unsets attributes of an image."""

from typing import Annotated

import numpy as np
from fastapi import Depends, FastAPI, Response
from fastapi.responses import JSONResponse

from lbae.core.latents.attribute_names import match_name
from lbae.core.latents.strengths import STRENGTHS, check_strength, least_strengths
from lbae.errors import UnusableAttribute
from lbae.web.answers import answer_formats
from lbae.web.answers.error_answers import RequestError, blames
from lbae.web.backend.backend import Backend, CurrentBackend
from lbae.web.limits import Limits
from lbae.web.memory import RequestMemory
from lbae.web.requests.batches import item_latents
from lbae.web.requests.bodies import body_of
from lbae.web.requests.request_models import EditRequest
from lbae.web.routes import openapi_document
from lbae.web.threads import in_writer


def add_edit_route(app: FastAPI, limits: Limits) -> None:
    """Add ``/v1/edit``."""

    @app.post(
        "/v1/edit",
        responses=openapi_document.IMAGE_ANSWERS,
        response_class=Response,
        openapi_extra=openapi_document.request_body(EditRequest),
    )
    async def edit(
        request: Annotated[EditRequest, Depends(body_of(EditRequest))],
        backend: CurrentBackend,
        share: RequestMemory,
    ) -> Response:
        fields = {}
        for param, names in (("set", request.set), ("unset", request.unset)):
            for index, name in enumerate(names):
                with blames(f"{param}.{index}"):
                    fields[match_name(name, backend.facts.attributes)] = f"{param}.{index}"
        with blames("strength"):
            check_strength(request.strength, request.method)
        tried = 1 if request.until is None else len(STRENGTHS)
        share.claim(answer_formats.image_bytes(tried, backend.facts.config))
        latents = await item_latents([request.item], "item", backend, limits)
        with blames("set"):
            try:
                edited, facts = await _edited(backend, latents, request)
            except UnusableAttribute as error:
                raise RequestError(422, str(error), fields[error.attribute]) from error
        facts = {"bits_changed": int((edited != latents).sum()), **facts}
        if request.format == "latents":
            answer: Response = JSONResponse({"latents": answer_formats.latent_fields(edited), **facts})
        else:
            (image,) = await backend.decode(edited)
            answer = await in_writer(share, answer_formats.picture_response, image, request.format)
        for name, value in facts.items():
            answer.headers[f"X-{name.replace('_', '-').title()}"] = str(value)
        return answer


async def _edited(
    backend: Backend, latents: np.ndarray, request: EditRequest
) -> tuple[np.ndarray, dict[str, float]]:
    """The latents as asked; with ``until`` also the strength that was taken, and its confidence."""
    asked = request.set, request.unset
    if request.until is None:
        return await backend.edit(latents, *asked, request.strength, request.method), {}
    tried = await backend.edit_at_all(latents, *asked)
    found = await backend.confidence(await backend.recode(tried), *asked)
    taken, (strength,) = least_strengths(found, request.until)
    return tried[taken], {"strength": float(strength), "confidence": round(float(found[taken[0]]), 4)}
