"""Middleware for every request: who may send it, limits of size, number and time, metrics, and HEAD."""

import asyncio
import hmac
import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lbae.web import foreign_pages
from lbae.web.answers.error_answers import RequestError, error_body
from lbae.web.limits import Limits
from lbae.web.memory import BODY_COPIES, MemoryBudget, MemoryShare

_PIECE_BYTES = 2**18
# A body has this time, and a second more per so many of its bytes. Connections that stop sending do not keep
# others out for long, and no client on a phone is slower.
_GRACE_S, _BYTES_PER_S = 10, 2**14
_GONE = 499  # nginx's status for a client that disconnected; it appears in metrics only
_PROBES = ("/healthz", "/readyz")  # called by any name or address, as by that of a pod

# Called with the path of the route, the status and the seconds taken.
Observe = Callable[[str, int, float], None]


class Guard:
    """Refuses foreign pages, missing keys and requests beyond the limits; reports all to ``observe``."""

    def __init__(self, app: ASGIApp, limits: Limits, observe: Observe) -> None:
        self.app, self.limits, self.observe = app, limits, observe
        self.running, self.memory = 0, MemoryBudget(limits.max_memory_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request or pass it on, and report it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, headers = _route_path(scope), Headers(scope=scope)
        foreign = foreign_pages.refusal(scope["method"], headers, self.limits)
        keyless = self._without_key(headers)
        started, share = time.perf_counter(), MemoryShare(self.memory)
        exchange = _Exchange(scope, receive, send, self.limits.max_body_bytes, share)
        exchange.is_trusted = not (foreign or keyless)
        scope.setdefault("state", {})["memory"] = share
        self.running += 1
        try:
            if refusal := self._refusal(path, foreign, keyless) or exchange.announced(headers):
                await _answer(refusal)(scope, receive, exchange.send)
            else:
                async with asyncio.timeout(self.limits.max_seconds):
                    await self.app(scope, exchange.receive, exchange.send)
        except TimeoutError:
            if exchange.begun:  # too late for an error response: closing the connection is all that is left
                raise
            await _answer(self._too_late(exchange.arrived))(scope, receive, exchange.send)
        except ClientDisconnect:
            exchange.gone = True
        except asyncio.CancelledError:  # by Ray Serve, when its proxy sees the client disconnect
            exchange.gone = True
            raise
        except Exception:
            if not exchange.begun:
                await _answer(RequestError(500, "the service failed; the cause is in its log"))(
                    scope, receive, exchange.send
                )
            raise  # the server logs it
        finally:
            self.running -= 1
            share.let_go()
            status = _GONE if exchange.gone else exchange.status
            self.observe(getattr(scope.get("route"), "path", "none"), status, time.perf_counter() - started)

    def _too_late(self, arrived: bool) -> RequestError:
        if arrived:
            return RequestError(504, f"the request took longer than {self.limits.max_seconds:g} s")
        return RequestError(408, f"the request body did not arrive within {self.limits.max_seconds:g} s")

    def _without_key(self, headers: Headers) -> RequestError | None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # Compare every key, each in constant time, so that timing reveals nothing about the keys.
        known = sum(hmac.compare_digest(given.strip().encode(), key.encode()) for key in self.limits.keys)
        if self.limits.keys and not (scheme.lower() == "bearer" and known):
            return RequestError(
                401,
                "a valid API key is needed; send the header Authorization: Bearer KEY",
                None,
                {"WWW-Authenticate": "Bearer"},
            )
        return None

    def _refusal(
        self, path: str, foreign: RequestError | None, keyless: RequestError | None
    ) -> RequestError | None:
        if path in _PROBES:
            return None
        if foreign or not path.startswith("/v1/"):
            return foreign
        if keyless:
            return keyless
        if self.running > self.limits.max_running:
            return RequestError(503, "too many requests at once; retry later", None, {"Retry-After": "1"})
        return None


class HeadAsGet:
    """Answers HEAD on every route as GET without the body, because monitors and load balancers send HEAD."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, HEAD as GET."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self.app({**scope, "method": "GET"}, receive, send_without_body)


class _Exchange:
    """The messages of one request and its response: tracks how far both are, and limits the body's size."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, max_body_bytes: int, share: MemoryShare
    ) -> None:
        self._scope, self._receive, self._send, self._max_body_bytes = scope, receive, send, max_body_bytes
        self._share = share
        self._started, self._body_bytes, self._claimed_bytes = time.perf_counter(), 0, 0
        self.status = 500
        self.arrived = self.begun = self.ended = self.gone = self.is_trusted = False

    def announced(self, headers: Headers) -> RequestError | None:
        """Claim the memory of a body whose length is announced, or return the error that refuses it.

        Bodies that arrive at the same time would else all grow until none has room.
        """
        length = headers.get("content-length", "")
        try:
            self._claim(int(length) if length.isdigit() else 0)
        except RequestError as refusal:
            return refusal
        return None

    async def receive(self) -> Message:
        """The next message; RequestError when the body is too slow, or too large whatever its length says."""
        message = await (self._receive() if self.arrived else self._in_time())
        if message["type"] == "http.disconnect":
            self.gone = self.gone or not self.ended
            return message
        self._body_bytes += len(message.get("body", b""))
        self._claim(self._body_bytes)
        self.arrived = not message.get("more_body", False)
        return message

    async def _in_time(self) -> Message:
        allowed_s = _GRACE_S + self._body_bytes / _BYTES_PER_S
        try:
            async with asyncio.timeout(allowed_s - (time.perf_counter() - self._started)):
                return await self._receive()
        except TimeoutError as error:
            raise RequestError(
                408,
                f"only {self._body_bytes} bytes of the request body arrived in {allowed_s:.0f} s; allowed:"
                f" {_GRACE_S} s, and one more per {_BYTES_PER_S} bytes",
            ) from error

    def _claim(self, length: int) -> None:
        if length > self._max_body_bytes:
            raise RequestError(413, f"the request body is too large; allowed: {self._max_body_bytes} bytes")
        if length > self._claimed_bytes:
            self._share.claim(BODY_COPIES * (length - self._claimed_bytes))
            self._claimed_bytes = length

    async def send(self, message: Message) -> None:
        """Pass a message on, with the headers of every response.

        The bundle's fingerprint is for requests that may use the service: to others it would tell which model
        runs here and when it is swapped.

        A body goes in pieces. The server takes the next piece when the client has read the one before, so the
        request lasts, and keeps its memory, until its client has the response.
        """
        if message["type"] == "http.response.start":
            self.status, self.begun = message["status"], True
            taken, headers = 1000 * (time.perf_counter() - self._started), MutableHeaders(scope=message)
            headers.append("Server-Timing", f"total;dur={taken:.1f}")
            headers["X-Content-Type-Options"] = "nosniff"
            headers.setdefault("Cache-Control", "no-store")
            if self.is_trusted:
                headers.append("X-Bundle", _bundle_fingerprint(self._scope))
        body, sent = message.get("body", b""), 0
        while len(body) - sent > _PIECE_BYTES:
            await self._send({**message, "body": body[sent : sent + _PIECE_BYTES], "more_body": True})
            sent += _PIECE_BYTES
        self.ended = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self._send({**message, "body": body[sent:]} if sent else message)


def _route_path(scope: Scope) -> str:
    """The path without the prefix under which the application is mounted."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


def _bundle_fingerprint(scope: Scope) -> str:
    """The fingerprint of the request's bundle; for a refused request, of the current one."""
    given = scope.get("state", {}).get("bundle")
    return str(given or scope["app"].state.current().facts.fingerprint)


def _answer(error: RequestError) -> JSONResponse:
    return JSONResponse(error_body(error.status_code, error.detail), error.status_code, headers=error.headers)
