"""From the bytes of a request to its body: JSON, or files of a multipart request with the rest in its field
``request``.
"""

import base64
import binascii
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import numpy as np
from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from lbae.config import ModelConfig
from lbae.core.latents.packing import packed_width, unpack
from lbae.io.images import ImageError, decode_image
from lbae.web.error_answers import RequestError
from lbae.web.request_models import MAX_ITEMS, Fields, WithFiles

JSON, MULTIPART = "application/json", "multipart/form-data"
Body = TypeVar("Body", bound=Fields)

_FORMATS = ("PNG", "JPEG", "WEBP")


def media_types(model: type[Fields]) -> tuple[str, ...]:
    """How a body may be sent."""
    return (JSON, MULTIPART) if issubclass(model, WithFiles) else (JSON,)


def body_of(model: type[Body]) -> Callable[[Request], Awaitable[Body]]:
    """A dependency that reads the body of a request as JSON or, where it may hold files, as multipart."""
    allowed = media_types(model)

    async def read(request: Request) -> Body:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in allowed:
            raise RequestError(415, f"content type {kind!r}; allowed: {', '.join(allowed)}")
        fields = _json(await request.body()) if kind == JSON else await _multipart(request, model)
        try:
            return model.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            raise RequestError(422, first["msg"], ".".join(map(str, first["loc"])) or None) from error

    return read


async def _multipart(request: Request, model: Any) -> dict[str, Any]:
    async with request.form(max_files=MAX_ITEMS, max_fields=8) as form:
        files = [part for part in form.getlist("image") if isinstance(part, UploadFile)]
        rest = form.get("request", "{}")
        unknown = set(form) - {"image", "request"}
        if unknown or not files or not isinstance(rest, str):
            raise RequestError(
                422, "a multipart request holds files named image and a text named request (JSON)", "image"
            )
        fields = _json(rest.encode(), "request")
        of_files = model.of_files([base64.b64encode(await file.read()).decode() for file in files])
        if twice := fields.keys() & of_files.keys():
            raise RequestError(
                422, "the files take the place of this field; give one or the other", min(twice)
            )
        return fields | of_files


def _json(data: bytes, param: str | None = None) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "the body is not valid JSON", param) from error
    if not isinstance(fields, dict):
        raise RequestError(422, "the body is not a JSON object", param)
    return fields


def image_of(text: str, config: ModelConfig, max_pixels: int, param: str | None = None) -> np.ndarray:
    """A still PNG, JPEG or WebP in base64 as uint8 (H, W, C) of the content size; RequestError when it cannot
    be one.
    """
    try:
        return decode_image(_bytes_of(text, param), config, max_pixels, _FORMATS, still=True)
    except ImageError as error:
        raise RequestError(422, f"not an image that can be read: {error}", param) from error


def latent_of(text: str, latent_dim: int, param: str | None = None) -> np.ndarray:
    """A packed latent in base64 as +1 and -1, int8 (N,); RequestError for another width or padding bits."""
    data = _bytes_of(text, param)
    if len(data) != packed_width(latent_dim):
        raise RequestError(
            422, f"a latent of {len(data)} bytes; this model's have {packed_width(latent_dim)}", param
        )
    try:
        return unpack(np.frombuffer(data, dtype=np.uint8)[None], latent_dim)[0]
    except ValueError as error:
        raise RequestError(422, str(error), param) from error


def _bytes_of(text: str, param: str | None) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(422, "not valid base64", param) from error
