"""OpenAI's image API, for programs that speak it. A prompt names attributes, since nothing here understands
words.
"""

import time
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from fastapi.responses import JSONResponse
from starlette.requests import Request

from lbae.errors import UserError
from lbae.web import openapi_document as document
from lbae.web.answers import check_pixels, image_fields
from lbae.web.backend import Backend
from lbae.web.bodies import body_of
from lbae.web.error_answers import RequestError, blames
from lbae.web.middleware import Limits
from lbae.web.request_models import GenerationRequest, chosen
from lbae.web.threads import in_writer

_MODEL = "lbae"
_NOT = "not "


def add_openai(app: FastAPI, backend_of: Callable[[Request], Backend], limits: Limits) -> None:
    """``POST /v1/images/generations`` and ``GET /v1/models``."""
    started = int(time.time())

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        model = {"id": _MODEL, "object": "model", "created": started, "owned_by": "lbae"}
        return {"object": "list", "data": [model]}

    @app.post(
        "/v1/images/generations",
        responses={404: document.failure("no such model")},
        openapi_extra=document.body(GenerationRequest),
    )
    async def generate(
        request: Annotated[GenerationRequest, Depends(body_of(GenerationRequest))],
        backend: Annotated[Backend, Depends(backend_of)],
    ) -> JSONResponse:
        height, width, _ = backend.about.config.image_shape
        if request.model not in (None, _MODEL, backend.about.fingerprint):
            raise RequestError(404, f"model {request.model!r} does not exist; allowed: {_MODEL}", "model")
        if request.size not in ("auto", own := f"{width}x{height}"):
            raise RequestError(422, f"size is {request.size!r}; allowed: auto, {own}", "size")
        check_pixels("png", request.n, width, limits.max_answer_pixels, "n")
        seed = chosen(request.seed)
        with blames("prompt"):
            latents = await backend.draw(request.n, seed, _conditions(request.prompt), None)
        images = await in_writer(image_fields, await backend.decode(latents), request.output_format)
        answer = {
            "created": int(time.time()),
            "data": [{"b64_json": image["image"]} for image in images],
            "output_format": request.output_format,
            "size": own,
            "seed": seed,
        }
        return JSONResponse(answer, headers={"X-Seed": str(seed)})


def _conditions(prompt: str) -> dict[str, bool]:
    """Attributes that a prompt asks for. UserError when one is both asked for and not."""
    given: dict[str, bool] = {}
    for word in (part.strip() for part in prompt.split(",")):
        name, wanted = word.removeprefix(_NOT).strip(), not word.startswith(_NOT)
        if name and given.setdefault(name, wanted) != wanted:
            raise UserError(f"the prompt asks for {name!r} and for not {name!r}")
    return given
