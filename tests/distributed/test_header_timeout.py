"""uvicorn with a time limit for headers, as replicas and Ray Serve's own proxy start it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from uvicorn.config import HTTP_PROTOCOLS

from lbae.distributed.serve import header_timeout

HALF = b"POST / HTTP/1.1\r\nhost: x\r\n"
WHOLE = HALF + b"content-length: 2\r\n\r\n"


async def count_body(scope, receive, send) -> None:
    """Answer with the number of bytes in the body."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    body = b"%d" % size
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(autouse=True)
def limited(monkeypatch) -> None:
    """uvicorn with a limit of half a second in this test only."""
    monkeypatch.setitem(HTTP_PROTOCOLS, "auto", HTTP_PROTOCOLS["auto"])
    monkeypatch.setattr(header_timeout, "HEADER_S", 0.5)
    header_timeout.limit_header_time()


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
