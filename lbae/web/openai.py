"""OpenAI's image API, for programs that speak it. A prompt names attributes, since nothing here understands words."""

import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI
from fastapi.responses import JSONResponse
from pydantic import ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from lbae.errors import UserError
from lbae.web.answers import image_fields, signed
from lbae.web.backend import Backend
from lbae.web.errors import RequestError
from lbae.web.requests import MAX_IMAGES, Fields, Picture, Seed, chosen

_MODEL = "lbae"
_NOT = "not "


class GenerationRequest(Fields):
    """What ``client.images.generate`` of OpenAI's library sends; ``seed`` is an extra."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"prompt": "label=7", "n": 1, "seed": 0}]})

    prompt: Annotated[
        str, Field(max_length=4000, description="attributes of every image, between commas: NAME or not NAME; may be empty")
    ]
    n: Annotated[int, Field(ge=1, le=MAX_IMAGES)] = 1
    model: Annotated[str | None, Field(description="lbae, or the fingerprint of the bundle that answers")] = None
    size: Annotated[str, Field(description="auto, or the bundle's own width and height, such as 32x32")] = "auto"
    response_format: Literal["b64_json"] = "b64_json"
    output_format: Picture = "png"
    seed: Seed | None = None
    user: Annotated[str | None, Field(description="part of OpenAI's API; not used")] = None


def add_openai(app: FastAPI, backend_of: Callable[[Request], Backend]) -> None:
    """``POST /v1/images/generations`` and ``GET /v1/models``."""
    started = int(time.time())

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        model = {"id": _MODEL, "object": "model", "created": started, "owned_by": "lbae"}
        return {"object": "list", "data": [model]}

    @app.post("/v1/images/generations")
    async def generate(request: GenerationRequest, backend: Annotated[Backend, Depends(backend_of)]) -> JSONResponse:
        height, width, _ = backend.about.config.image_shape
        if request.model not in (None, _MODEL, backend.about.fingerprint):
            raise RequestError(404, f"model {request.model!r} does not exist; allowed: {_MODEL}", "model")
        if request.size not in ("auto", own := f"{width}x{height}"):
            raise RequestError(422, f"size is {request.size!r}; allowed: auto, {own}", "size")
        seed = chosen(request.seed)
        latents = await backend.draw(request.n, seed, _conditions(request.prompt), None)
        images = await run_in_threadpool(image_fields, await backend.decode(latents), request.output_format)
        answer = {
            "created": int(time.time()),
            "data": [{"b64_json": image["image"]} for image in images],
            "output_format": request.output_format,
            "size": own,
            "seed": seed,
        }
        return signed(JSONResponse(answer), backend, {"X-Seed": str(seed)})


def _conditions(prompt: str) -> dict[str, bool]:
    """Attributes that a prompt asks for. UserError when one is both asked for and not."""
    given: dict[str, bool] = {}
    for word in (part.strip() for part in prompt.split(",")):
        name, wanted = word.removeprefix(_NOT).strip(), not word.startswith(_NOT)
        if name and given.setdefault(name, wanted) != wanted:
            raise UserError(f"the prompt asks for {name!r} and for not {name!r}")
    return given
