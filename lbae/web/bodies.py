"""From the bytes of a request to its body: JSON, or files of a multipart request with the rest in its field ``request``."""

import base64
import binascii
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from pydantic import ValidationError
from pydantic.json_schema import models_json_schema
from starlette.datastructures import UploadFile

from lbae.config import ModelConfig
from lbae.core.packing import check_packed, packed_width, unpack
from lbae.io.images import ImageError, decode_image
from lbae.web.errors import RequestError
from lbae.web.requests import MAX_ITEMS, EditRequest, EncodeRequest, InterpolateRequest, ReconstructRequest

_WITH_FILES = (InterpolateRequest, EditRequest, EncodeRequest, ReconstructRequest)
Body = TypeVar("Body", InterpolateRequest, EditRequest, EncodeRequest, ReconstructRequest)


def body_of(model: type[Body]) -> Callable[[Request], Awaitable[Body]]:
    """A dependency that reads the body of a request as JSON or as multipart."""

    async def read(request: Request) -> Body:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            fields = _json(await request.body())
        elif kind == "multipart/form-data":
            fields = await _multipart(request, model)
        else:
            raise RequestError(415, f"content type {kind!r}; allowed: application/json, multipart/form-data")
        try:
            return model.model_validate(fields)
        except ValidationError as error:
            raise RequestValidationError(error.errors(include_url=False, include_context=False)) from error

    return read


async def _multipart(request: Request, model: type[Body]) -> dict[str, Any]:
    async with request.form(max_files=MAX_ITEMS, max_fields=8) as form:
        files = [part for part in form.getlist("image") if isinstance(part, UploadFile)]
        rest = form.get("request", "{}")
        unknown = set(form) - {"image", "request"}
        if unknown or not files or not isinstance(rest, str):
            raise RequestError(422, "a multipart request holds files named image and a text named request (JSON)", "image")
        fields = _json(rest.encode(), "request")
        return fields | model.of_files([base64.b64encode(await file.read()).decode() for file in files])


def _json(data: bytes, param: str | None = None) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "the body is not valid JSON", param) from error
    if not isinstance(fields, dict):
        raise RequestError(422, "the body is not a JSON object", param)
    return fields


def image_of(text: str, config: ModelConfig, max_pixels: int, param: str | None = None) -> np.ndarray:
    """A base64 image at the content size; RequestError when it cannot be one."""
    try:
        return decode_image(_bytes_of(text, param), config, max_pixels)
    except ImageError as error:
        raise RequestError(422, f"not an image that can be read: {error}", param) from error


def latent_of(text: str, latent_dim: int, param: str | None = None) -> np.ndarray:
    """A packed latent in base64 as +1 and -1; RequestError for another width or padding bits."""
    data = _bytes_of(text, param)
    if len(data) != packed_width(latent_dim):
        raise RequestError(422, f"a latent of {len(data)} bytes; this model's have {packed_width(latent_dim)}", param)
    packed = np.frombuffer(data, dtype=np.uint8)[None]
    try:
        check_packed(packed, latent_dim)
    except ValueError as error:
        raise RequestError(422, str(error), param) from error
    return unpack(packed, latent_dim)[0]


def _bytes_of(text: str, param: str | None) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(422, "not valid base64", param) from error


def with_files(model: type[Body], example: dict[str, Any]) -> dict[str, Any]:
    """What OpenAPI says of a body that :func:`body_of` reads."""
    files = {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
    form = {"image": files, "request": {"type": "string", "description": "the other fields, as JSON"}}
    content = {
        "application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}, "example": example},
        "multipart/form-data": {"schema": {"type": "object", "properties": form, "required": ["image"]}},
    }
    return {"requestBody": {"required": True, "content": content}}


def describe_bodies(app: FastAPI) -> None:
    """Let the OpenAPI document hold the schemas that :func:`with_files` refers to."""
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    _, schemas = models_json_schema(
        [(model, "validation") for model in _WITH_FILES], ref_template="#/components/schemas/{model}"
    )
    document.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
    app.openapi_schema = document
