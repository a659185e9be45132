"""Errors as JSON: {"error": {"type", "message", "param"}}, without stack traces, paths or addresses."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from lbae.errors import UserError

TYPES = {
    400: "invalid_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "too_large",
    415: "unsupported_media_type",
    422: "invalid_request",
    503: "overloaded",
    504: "timeout",
}

_MAX_TEXT = 1000  # characters; a request's field names would else come back whole


class RequestError(HTTPException):
    """A refused request; ``param`` is the field at fault, if one is."""

    def __init__(
        self, status: int, message: str, param: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(status, message, headers)
        self.param = param


@contextmanager
def blames(param: str) -> Iterator[None]:
    """Turn a UserError of the body into a RequestError with this field at fault."""
    try:
        yield
    except UserError as error:
        raise RequestError(422, str(error), param) from error


def error_body(status: int, message: str, param: str | None = None) -> dict[str, Any]:
    """The JSON of an error, with texts of at most 1,000 characters and "..." where one is cut.

    Lone surrogates are replaced, because JSON can hold them and UTF-8 cannot.
    """
    said = [text and _short(text).encode(errors="replace").decode() for text in (message, param)]
    return {"error": {"type": TYPES.get(status, "internal"), "message": said[0], "param": said[1]}}


def _short(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 3]}..."


def handle_errors(app: FastAPI) -> None:
    """Make the application send every error as this JSON."""

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> JSONResponse:
        content = error_body(error.status_code, str(error.detail), getattr(error, "param", None))
        return JSONResponse(content, error.status_code, headers=error.headers)

    @app.exception_handler(UserError)
    def senseless(request: Request, error: UserError) -> JSONResponse:
        return JSONResponse(error_body(422, str(error)), 422)
