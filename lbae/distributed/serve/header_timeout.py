"""A time limit for the headers of requests that reach uvicorn: in replicas and in Ray Serve's own proxy.

uvicorn has none: a connection that sends half a request stays until its client closes it. HAProxy has the
same limit (:mod:`lbae.distributed.serve.private_haproxy`).
"""

import asyncio

import uvicorn.config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_S = 5  # clients send headers at once; the rest is for lost packets


def limit_header_time() -> None:
    """Make uvicorn servers that start in this process use :class:`TimedHeaders`.

    Ray Serve calls this function before it starts a server, and expects a list of middleware or None.
    """
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{TimedHeaders.__module__}:{TimedHeaders.__qualname__}"


class TimedHeaders(HttpToolsProtocol):
    """uvicorn's protocol; closes a connection whose next request has no complete headers in time.

    The timer starts with the connection, and later with the first byte after a response.
    """

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer of the first request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Start the timer of a later request."""
        if self._waiting is None and (self.cycle is None or self.cycle.response_complete):
            self._wait()
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """Cancel the timer: the application has its own time limit for body and answer."""
        self._stop_waiting()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timer."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(HEADER_S, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
