"""The reference of the HTTP service, from the application's own OpenAPI document and limits."""

import json
from collections.abc import Iterator
from typing import Any

from lbae.web.answers.error_answers import TYPES
from lbae.web.app import create_app
from lbae.web.limits import DEFAULT_LIMITS

_BOUNDS = {
    "minimum": "from {}",
    "maximum": "to {}",
    "exclusiveMaximum": "below {}",
    "minItems": "from {}",
    "maxItems": "to {} items",
    "maxProperties": "of at most {} names",
    "maxLength": "of at most {} characters",
}


def openapi() -> dict[str, Any]:
    """The OpenAPI document that a service answers at ``/openapi.json``; no bundle is opened for it."""

    async def never_started() -> Any:
        raise NotImplementedError

    document: dict[str, Any] = create_app(never_started).openapi()
    return document


def limit(name: str) -> str:
    """A limit of the service, such as ``max_running``."""
    return _number(getattr(DEFAULT_LIMITS, name))


def error_types() -> str:
    """Statuses and their error types as a table in Markdown."""
    rows = [f"| {status} | `{kind}` |" for status, kind in sorted({**TYPES, 500: "internal"}.items())]
    return "\n".join(["| status | `type` |", "|--:|---|", *rows])


def endpoints() -> dict[str, str]:
    """What each endpoint takes and answers, in Markdown, by names such as ``POST /v1/sample``."""
    document = openapi()
    schemas = document["components"]["schemas"]
    return {
        f"{method.upper()} {path}": _endpoint(operation, schemas)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }


def fields_of(name: str) -> str:
    """The fields of an object that bodies hold, as a list in Markdown."""
    return "\n".join(_fields(openapi()["components"]["schemas"][name]))


def _endpoint(operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    lines = []
    if content := operation.get("requestBody", {}).get("content", {}):
        schema = schemas[next(iter(content.values()))["schema"]["$ref"].rpartition("/")[2]]
        lines += [f"**Body** ({_media(content)})", "", *_fields(schema), ""]
        lines += [f"```json\n{json.dumps(example)}\n```\n" for example in schema.get("examples", [])]
    responses = operation["responses"]
    lines += [f"**Answer** {_media(responses['200']['content'])}", ""]
    if failures := sorted(responses.keys() - {"200"}):
        lines += [f"**Errors** {', '.join(failures)}", ""]
    return "\n".join(lines)


def _fields(schema: dict[str, Any]) -> Iterator[str]:
    for name, field in schema["properties"].items():
        needed = name in schema.get("required", ())
        state = "required" if needed else f"default `{json.dumps(field.get('default'))}`"
        meaning = " ".join(field.get("description", "").replace("``", "`").split())
        yield f"- `{name}`: {_type(field)}, {state}" + (f"; {meaning}" if meaning else "")


def _type(field: dict[str, Any]) -> str:
    """A schema in words: its type, its limits, its choices."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in field:
        return " or ".join(_type(one) for one in field["anyOf"])
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        return " or ".join(f"`{json.dumps(value)}`" for value in field["enum"])
    name = {"array": "list"}.get(field["type"], field["type"])
    if "items" in field:
        name = f"list of {_type(field['items'])}"
    elif isinstance(field.get("additionalProperties"), dict):
        name = f"object of {_type(field['additionalProperties'])}"
    bounds = (form.format(_number(field[key])) for key, form in _BOUNDS.items() if key in field)
    return " ".join([name, *bounds])


def _number(value: float) -> str:
    power = int(value).bit_length() - 1
    if value > 2**20 and value == 2**power:
        return f"2<sup>{power}</sup>"
    return f"{value:,.0f}" if float(value).is_integer() else str(value)


def _media(content: dict[str, Any]) -> str:
    return ", ".join(f"`{kind}`" for kind in content)
