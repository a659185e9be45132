"""Limits of time and size for requests that reach uvicorn: in replicas and in Ray Serve's own proxy.

uvicorn has none. A connection that sends half a request stays until its client closes it, and one that sends
headers, trailers or requests without an end takes memory without an end, before the application sees any of
it. HAProxy has limits of its own (:mod:`lbae.distributed.serve.private_haproxy`).
"""

import asyncio
from typing import NoReturn

import uvicorn.config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lbae.web.limits import DEFAULT_LIMITS

HEADER_S = 5  # clients send headers at once; the rest is for lost packets
MAX_HEADERS = 128  # HAProxy passes at most 101
MAX_HEAD_BYTES = 2**16  # HAProxy passes at most 16 KiB
MAX_REQUEST_BYTES = 4 * DEFAULT_LIMITS.max_body_bytes  # with the framing of chunks, and what is not read


def bound_http() -> None:
    """Make uvicorn servers that start in this process use :class:`BoundedHttp`.

    Ray Serve calls this function before it starts a server, and expects a list of middleware or None.
    """
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{BoundedHttp.__module__}:{BoundedHttp.__qualname__}"


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's protocol; closes a connection whose request is beyond a limit.

    The headers' timer starts with the connection, and later with the first byte after a response.
    """

    _waiting: asyncio.TimerHandle | None = None
    _bytes, _in_head = 0, True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer of the first request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Start the timer of a later request, and count the bytes of this one.

        Those that come with a request's first byte are not counted: asyncio reads at most 256 KiB at once.
        """
        if self._waiting is None and (self.cycle is None or self.cycle.response_complete):
            self._wait()
        self._bytes += len(data)
        super().data_received(data)
        if self._bytes > (MAX_HEAD_BYTES if self._in_head else MAX_REQUEST_BYTES):
            self.transport.abort()

    def on_message_begin(self) -> None:
        """Count from here, and refuse a third request while the first has no whole response.

        A second one is no attack: a client may have read the response just before uvicorn ends it.
        """
        if self.pipeline:
            self._refuse("requests sent before the responses to earlier ones")
        self._bytes, self._in_head = 0, True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Refuse headers beyond the limit, and all trailers."""
        if not self._in_head:
            self._refuse("trailers")
        if len(self.headers) == MAX_HEADERS:
            self._refuse(f"more than {MAX_HEADERS} headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Cancel the timer: the application has its own time limit for body and answer."""
        self._stop_waiting()
        self._in_head = False
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timer."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _refuse(self, what: str) -> NoReturn:
        self.transport.abort()
        raise ValueError(what)  # ends the parser's work on the bytes that have arrived

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(HEADER_S, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
