"""uvicorn with limits of time and size, as replicas and Ray Serve's own proxy start it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import uvicorn
from uvicorn.config import HTTP_PROTOCOLS

from lbae.distributed.serve import bounded_http

HALF = b"POST / HTTP/1.1\r\nhost: x\r\n"
WHOLE = HALF + b"content-length: 2\r\n\r\n"


async def count_body(scope, receive, send) -> None:
    """Answer with the number of bytes in the body."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    body = b"%d" % size
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(autouse=True)
def limited(monkeypatch) -> None:
    """uvicorn with these limits, and half a second for headers, in this test only."""
    monkeypatch.setitem(HTTP_PROTOCOLS, "auto", HTTP_PROTOCOLS["auto"])
    monkeypatch.setattr(bounded_http, "HEADER_S", 0.5)
    bounded_http.bound_http()


@asynccontextmanager
async def connection() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server with the application."""
    server = uvicorn.Server(uvicorn.Config(count_body, port=0, log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    yield reader, writer
    writer.close()
    server.should_exit = True
    await serving


@pytest.mark.parametrize(
    ("requests_before", "sent"), [(0, b""), (0, b"\r\n"), (0, HALF), (1, b"\r\n"), (1, HALF)]
)
def test_headers_that_do_not_end_are_given_up(requests_before, sent):
    async def run() -> None:
        async with connection() as (reader, writer):
            for _ in range(requests_before):
                writer.write(WHOLE + b"ab")
                assert (await reader.readuntil(b"\r\n\r\n2")).startswith(b"HTTP/1.1 200")
            writer.write(sent)
            assert await asyncio.wait_for(reader.read(), 30) == b""

    asyncio.run(run())


def test_a_slow_body_is_not_given_up():
    async def run() -> None:
        async with connection() as (reader, writer):
            writer.write(WHOLE + b"a")
            await asyncio.sleep(1.5)
            writer.write(b"b")
            assert (await reader.readuntil(b"\r\n\r\n2")).startswith(b"HTTP/1.1 200")

    asyncio.run(run())


CHUNKED = HALF + b"transfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "more"),
    [
        (HALF, b"a:\r\n"),
        (CHUNKED + b"0\r\n", b"a:\r\n"),
        (HALF + b"a: ", b"a" * 1000),
        (b"GET /", b"a" * 1000),
        (b"", b"\r\n"),
        (CHUNKED, b"1;" + b"a" * 1000 + b"\r\n \r\n"),
        (WHOLE, b"ab" + WHOLE),
    ],
    ids=["headers", "trailers", "header", "path", "lines", "chunk extensions", "pipelining"],
)
def test_requests_without_an_end_are_cut_off(monkeypatch, first, more):
    """One connection would else take all memory, without a key. The time limit is not what ends it."""
    monkeypatch.setattr(bounded_http, "HEADER_S", 60)
    monkeypatch.setattr(bounded_http, "MAX_REQUEST_BYTES", 2**20)
    sent, most = 0, 50 * 2**20

    async def run() -> None:
        nonlocal sent
        async with connection() as (reader, writer):
            with suppress(ConnectionError):
                writer.write(first)
                while sent < most:
                    writer.write(more * (2**16 // len(more)))
                    await writer.drain()
                    sent += 2**16
            with suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), 30)

    asyncio.run(run())
    assert sent < most


def test_clients_that_keep_to_the_limits_are_answered():
    headers = b"".join(b"x-%d: %s\r\n" % (i, b"a" * 400) for i in range(120))
    chunks = b"".join(b"%x\r\n%s\r\n" % (2**16, b"b" * 2**16) for _ in range(3))

    async def run() -> None:
        async with connection() as (reader, writer):
            for sent, size in (
                (HALF + headers + b"content-length: 2\r\n\r\nab", b"2"),
                (CHUNKED + chunks + b"0\r\n\r\n", b"%d" % (3 * 2**16)),
                (WHOLE + b"ab\r\n", b"2"),  # old browsers end bodies so
                (WHOLE + b"ab", b"2"),
            ):
                writer.write(sent)
                assert (await reader.readuntil(b"\r\n\r\n" + size)).startswith(b"HTTP/1.1 200")
            writer.write(2 * (WHOLE + b"ab"))
            for _ in range(2):
                assert (await reader.readuntil(b"\r\n\r\n2")).startswith(b"HTTP/1.1 200")

    asyncio.run(run())
