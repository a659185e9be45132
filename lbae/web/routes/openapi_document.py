"""The OpenAPI document: request bodies, the shape of errors, and the API key."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from lbae.web.answers.answer_formats import MEDIA
from lbae.web.answers.error_answers import TYPES
from lbae.web.requests.bodies import JSON, MULTIPART, media_types
from lbae.web.requests.request_models import (
    DecodeRequest,
    EditRequest,
    EncodeRequest,
    FormRequest,
    GenerationRequest,
    InterpolateRequest,
    OpenAIVariationRequest,
    ReconstructRequest,
    RequestBody,
    SampleRequest,
    VariationRequest,
)

_BODIES: tuple[type[RequestBody], ...] = (
    *(SampleRequest, InterpolateRequest, EditRequest, EncodeRequest, DecodeRequest, ReconstructRequest),
    *(VariationRequest, GenerationRequest, OpenAIVariationRequest),
)
_SCHEMAS = "#/components/schemas/"
_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
_FORM = {"image": _FILES, "request": {"type": "string", "description": "the other fields, as JSON"}}
_REST: dict[str, Any] = {"type": "object", "properties": _FORM, "required": ["image"]}

_FAILURE = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["type", "message", "param"],
            "properties": {
                "type": {"type": "string", "enum": sorted({*TYPES.values(), "internal"})},
                "message": {"type": "string"},
                "param": {
                    "type": ["string", "null"],
                    "description": "the field of the request that is at fault, if one is",
                },
            },
        }
    },
}
_IMAGES = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in MEDIA.values()}
IMAGE_ANSWERS: dict[int | str, Any] = {
    200: {"content": _IMAGES | {"application/zip": {}, "application/json": {}}}
}
"""The responses of a route that makes images."""
_ANSWERS_WITH = {"get": (401, 403, 500, 503), "post": (400, 401, 403, 408, 413, 415, 422, 500, 503, 504)}


def request_body(model: type[RequestBody]) -> dict[str, Any]:
    """The OpenAPI entry of an operation with this body; :func:`write_document` adds the schema."""
    own = {"$ref": f"{_SCHEMAS}{model.__name__}"}
    schemas = {JSON: own, MULTIPART: own if issubclass(model, FormRequest) else _REST}
    return {
        "requestBody": {
            "required": True,
            "content": {kind: {"schema": schemas[kind]} for kind in media_types(model)},
        }
    }


def failure(description: str) -> dict[str, Any]:
    """The OpenAPI entry of an error."""
    return {"description": description, "content": {JSON: {"schema": {"$ref": f"{_SCHEMAS}Failure"}}}}


def write_document(app: FastAPI, keys: bool) -> None:
    """Set an application's OpenAPI document; with ``keys`` it says that ``/v1/`` requires an API key."""
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    _, schemas = models_json_schema(
        [(model, "validation") for model in _BODIES], ref_template=f"{_SCHEMAS}{{model}}"
    )
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update(schemas["$defs"], Failure=_FAILURE)
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if path.startswith("/v1/"):
                operation["security"] = [{"key": []}] if keys else [{}, {"key": []}]
                operation["responses"] |= {
                    str(s): failure(TYPES.get(s, "internal")) for s in _ANSWERS_WITH[method]
                }
    app.openapi = lambda: document  # type: ignore[method-assign]  # openapi_schema would be rebuilt with new routes
