"""What stands before every request: API keys, the size of bodies, how many run at a time and how long; and its measure."""

import asyncio
import hmac
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lbae.errors import UserError
from lbae.web.errors import RequestError, body

KEYS_VARIABLE = "LBAE_API_KEYS"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")

# Path of the route, status, seconds.
Observe = Callable[[str, int, float], None]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Who may ask, how large a body and an image may be, how many requests run before others get a 503, and how long."""

    keys: tuple[str, ...] = ()
    max_body_bytes: int = 32 * 2**20
    max_pixels: int = 25_000_000
    max_running: int = 64
    max_seconds: float = 120


DEFAULT_LIMITS = Limits()


def api_keys(path: str | None, host: str, insecure: bool) -> tuple[str, ...]:
    """Keys from a file, one a line, or from LBAE_API_KEYS, between commas; UserError when others could ask without one."""
    if path is not None:
        try:
            lines = Path(path).read_text().splitlines()
        except OSError as error:
            raise UserError(f"api_keys {path} cannot be read: {error.strerror}") from error
    else:
        lines = os.environ.get(KEYS_VARIABLE, "").split(",")
    keys = tuple(line.strip() for line in lines if line.strip())
    if path is not None and not keys:
        raise UserError(f"api_keys {path} holds no key; it takes one a line")
    if not keys and host not in _LOOPBACK and not insecure:
        raise UserError(
            f"host {host} is open to others and there are no API keys: give --api-keys FILE (one a line) or {KEYS_VARIABLE},"
            " or say --insecure"
        )
    return keys


class Guard:
    """ASGI middleware around the application."""

    def __init__(self, app: ASGIApp, limits: Limits, observe: Observe) -> None:
        self.app, self.limits, self.observe = app, limits, observe
        self.running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on and measure."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status, begun = time.perf_counter(), 500, False

        async def timed(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                taken = 1000 * (time.perf_counter() - started)
                MutableHeaders(scope=message).append("Server-Timing", f"total;dur={taken:.1f}")
            await send(message)

        self.running += 1
        try:
            if refusal := self._refusal(scope["path"], Headers(scope=scope)):
                await _answer(refusal)(scope, receive, timed)
            else:
                async with asyncio.timeout(self.limits.max_seconds):
                    await self.app(scope, self._counted(receive), timed)
        except TimeoutError:
            if begun:  # nothing can be said any more; the connection breaks
                raise
            await _answer(RequestError(504, f"no answer in {self.limits.max_seconds:g} s"))(scope, receive, timed)
        finally:
            self.running -= 1
            self.observe(getattr(scope.get("route"), "path", "none"), status, time.perf_counter() - started)

    def _refusal(self, path: str, headers: Headers) -> RequestError | None:
        if not path.startswith("/v1/"):
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # Every key is compared, in constant time each, so that the time says nothing about them.
        known = sum(hmac.compare_digest(given.strip().encode(), key.encode()) for key in self.limits.keys)
        if self.limits.keys and not (scheme.lower() == "bearer" and known):
            return RequestError(
                401, "a valid API key is needed: Authorization: Bearer KEY", None, {"WWW-Authenticate": "Bearer"}
            )
        if self.running > self.limits.max_running:
            return RequestError(503, "too many requests at a time; try again", None, {"Retry-After": "1"})
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self.limits.max_body_bytes:
            return self._too_large()
        return None

    def _too_large(self) -> RequestError:
        return RequestError(413, f"the body is too large; allowed: {self.limits.max_body_bytes} bytes")

    def _counted(self, receive: Receive) -> Receive:
        """For bodies that do not say how long they are."""
        total = 0

        async def counted() -> Message:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > self.limits.max_body_bytes:
                raise self._too_large()
            return message

        return counted


def _answer(error: RequestError) -> JSONResponse:
    return JSONResponse(body(error.status_code, error.detail), error.status_code, headers=error.headers)
