"""The route that sets and unsets attributes of an image."""

from typing import Annotated

from fastapi import Depends, FastAPI, Response
from fastapi.responses import JSONResponse

from lbae.core.latents.attribute_names import match_name
from lbae.errors import UnusableAttribute
from lbae.web.answers import answer_formats
from lbae.web.answers.error_answers import RequestError, blames
from lbae.web.backend.backend import CurrentBackend
from lbae.web.limits import Limits
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
        request: Annotated[EditRequest, Depends(body_of(EditRequest))], backend: CurrentBackend
    ) -> Response:
        fields = {}
        for param, names in (("set", request.set), ("unset", request.unset)):
            for index, name in enumerate(names):
                with blames(f"{param}.{index}"):
                    fields[match_name(name, backend.facts.attributes)] = f"{param}.{index}"
        latents = await item_latents([request.item], "item", backend, limits)
        with blames("set"):
            asked = request.set, request.unset, request.strength, request.method
            try:
                edited = await backend.edit(latents, *asked)
            except UnusableAttribute as error:
                raise RequestError(422, str(error), fields[error.attribute]) from error
        changed = int((edited != latents).sum())
        if request.format == "latents":
            answer: Response = JSONResponse(
                {"latents": answer_formats.latent_fields(edited), "bits_changed": changed}
            )
        else:
            (image,) = await backend.decode(edited)
            answer = await in_writer(answer_formats.picture_response, image, request.format)
        answer.headers["X-Bits-Changed"] = str(changed)
        return answer
