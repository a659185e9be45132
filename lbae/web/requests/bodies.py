"""Reading request bodies: JSON, or multipart files with the other fields as JSON in a part ``request``."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from lbae.web.answers.error_answers import RequestError
from lbae.web.memory import BODY_COPIES, MemoryShare, request_share
from lbae.web.requests.request_models import MAX_ITEMS, BodyWithFiles, FormRequest, RequestBody

# A list or object of two bytes takes 64 in Python. Prompts and names hold fewer than these commas.
_MAX_VALUES = 2**16
# Per object. pydantic makes an error for each name that it does not know.
_MAX_NAMES = 128
# Python keeps a text at four bytes per character if one of them needs so many.
_WIDTH = 4

JSON, MULTIPART = "application/json", "multipart/form-data"
Body = TypeVar("Body", bound=RequestBody)


def media_types(model: type[RequestBody]) -> tuple[str, ...]:
    """The content types that a body of this model may have."""
    if issubclass(model, FormRequest):
        return (MULTIPART,)
    return (JSON, MULTIPART) if issubclass(model, BodyWithFiles) else (JSON,)


def body_of(model: type[Body]) -> Callable[[Request], Awaitable[Body]]:
    """A FastAPI dependency that reads a request's body; RequestError when it does not fit the model."""
    allowed = media_types(model)

    async def read(request: Request) -> Body:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in allowed:
            raise RequestError(415, f"content type {kind!r}; allowed: {', '.join(allowed)}")
        coding = request.headers.get("content-encoding", "identity").strip().lower()
        if coding != "identity":
            raise RequestError(415, f"content encoding {coding!r}; allowed: none, send the body uncompressed")
        share = request_share(request)
        if kind == JSON:
            fields = _json(b"".join([piece async for piece in request.stream()]), share)
        elif issubclass(model, FormRequest):
            fields = await _parts(request)
        else:
            fields = await _multipart(request, model, share)
        try:
            return model.model_validate(fields)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            message = first["msg"].removeprefix("Value error, ")
            raise RequestError(422, message, ".".join(map(str, first["loc"])) or None) from error

    return read


@asynccontextmanager
async def _form(request: Request) -> AsyncIterator[FormData]:
    # Starlette decodes the texts of a form with any codec of Python, such as punycode: n^2 steps for n bytes.
    charset = parse_options_header(request.headers["content-type"])[1].get(b"charset", b"utf-8")
    if charset.lower() != b"utf-8":
        raise RequestError(415, f"charset {charset.decode('latin-1')!r} of the form; allowed: utf-8")
    try:
        form = await request.form(max_files=MAX_ITEMS, max_fields=8)
    except HTTPException as error:  # Starlette refuses every bad form with 400
        if not str(error.detail).startswith("Too many files"):
            raise
        raise RequestError(422, f"more than {MAX_ITEMS} files; allowed: {MAX_ITEMS}", "image") from error
    try:
        yield form
    finally:
        await form.close()


async def _parts(request: Request) -> dict[str, Any]:
    """The fields of a form with a part per field."""
    async with _form(request) as form:
        fields: dict[str, Any] = {}
        for name, part in form.multi_items():
            if name in fields:
                raise RequestError(422, "the form has more than one part of this name; send one", name)
            fields[name] = await part.read() if isinstance(part, UploadFile) else part
        return fields


async def _multipart(request: Request, model: Any, share: MemoryShare) -> dict[str, Any]:
    async with _form(request) as form:
        files = [part for part in form.getlist("image") if isinstance(part, UploadFile)]
        texts = [part for part in form.getlist("request") if isinstance(part, str)]
        if not files or len(texts) > 1 or len(files) + len(texts) < len(form.multi_items()):
            raise RequestError(
                422,
                "a multipart request needs files named image, may have one text part named request (JSON),"
                " and takes no other parts",
                "image",
            )
        fields = _json(texts[0].encode(), share, "request") if texts else {}
        of_files = model.of_files([await file.read() for file in files])
        if twice := fields.keys() & of_files.keys():
            raise RequestError(
                422, "the uploaded files fill this field; give the files or the field, not both", min(twice)
            )
        return fields | of_files


def _json(data: bytes, share: MemoryShare, param: str | None = None) -> dict[str, Any]:
    if sum(data.count(sign) for sign in (b",", b"[", b"{")) > _MAX_VALUES:
        raise RequestError(
            400, f"the JSON has too many commas and opening brackets; allowed: {_MAX_VALUES}", param
        )
    if not data.isascii() or b"\\u" in data:
        share.claim((_WIDTH - 1) * BODY_COPIES * len(data))
    try:
        # Not of bytes: UTF-16 would be read too, of which escapes take more than _WIDTH.
        fields = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "the body is not valid JSON", param) from error
    if not isinstance(fields, dict):
        raise RequestError(422, "the body is not a JSON object", param)
    return fields


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > _MAX_NAMES:
        raise RequestError(422, f"an object of the JSON has {len(pairs)} names; allowed: {_MAX_NAMES}")
    return dict(pairs)
