"""HAProxy as the service starts it: its files, its ports, and requests that never end. No Ray cluster."""

import asyncio
import os
import re
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from ray.serve._private.haproxy import HAProxyConfig
from ray.serve.config import HTTPOptions

from lbae.distributed.serve import private_haproxy
from lbae.distributed.serve.private_haproxy import PrivateHAProxy, _closed
from lbae.errors import LbaeError

HALF = b"POST /v1/sample HTTP/1.1\r\nhost: x\r\n"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@asynccontextmanager
async def running(port: int, **options: object) -> AsyncIterator[PrivateHAProxy]:
    """A HAProxy on this port; without replicas, it answers /-/healthz itself."""
    http = HTTPOptions(host="127.0.0.1", port=port)
    config = HAProxyConfig(http_options=http, is_head=True, has_received_routes=True, **options)
    haproxy = PrivateHAProxy(config)
    await haproxy.start()
    try:
        yield haproxy
    finally:
        await haproxy.stop()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_only_its_user_reaches_its_files_and_only_the_service_has_a_port():
    port = free_port()

    async def run() -> None:
        async with running(port) as haproxy:
            folder = Path(haproxy.config_file_path).parent
            assert folder.is_dir()
            assert not folder.is_symlink()
            assert (mode(folder), folder.stat().st_uid) == (0o700, os.getuid())
            for path in (
                haproxy.cfg.socket_path,
                haproxy.cfg.server_state_base,
                haproxy.cfg.metrics_socket_path,
            ):
                assert Path(path).is_relative_to(folder)
            await haproxy.reload()  # it writes its state, and its successor takes the socket over
            assert Path(haproxy.cfg.server_state_file).parent == folder
            assert mode(Path(haproxy.cfg.socket_path)) == 0o600
            sockets = psutil.Process(haproxy._proc.pid).net_connections("inet")
            listening = {tuple(one.laddr) for one in sockets if one.status == psutil.CONN_LISTEN}
            assert listening == {("127.0.0.1", port)}
        assert not folder.exists()

    asyncio.run(run())


def test_half_sent_requests_give_their_connections_back(monkeypatch):
    """As many as HAProxy accepts, beside a client that waits longer than they may take."""
    monkeypatch.setattr(private_haproxy, "HEADER_S", 1)
    port, connections = free_port(), 8

    async def run() -> None:
        async with running(port, maxconn=connections, nbthread=1), httpx.AsyncClient(timeout=30) as client:
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(connections)]
            for _, writer in held:
                writer.write(HALF)
            assert (await client.get(f"http://127.0.0.1:{port}/-/healthz")).status_code == 200
            for reader, writer in held:
                assert b" 408 " in await reader.read()
                writer.close()

    asyncio.run(run())


def test_idle_connections_give_their_places_back(monkeypatch):
    """Ray keeps them for 90 s, and so as many as HAProxy accepts would keep others out for as long."""
    monkeypatch.setattr(private_haproxy, "IDLE_S", 1)
    port, connections = free_port(), 8

    async def run() -> None:
        async with running(port, maxconn=connections, nbthread=1), httpx.AsyncClient(timeout=30) as client:
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(connections)]
            for reader, writer in held:
                writer.write(b"GET /-/routes HTTP/1.1\r\nhost: x\r\n\r\n")
                assert b" 200 " in await reader.readline()
            assert (await client.get(f"http://127.0.0.1:{port}/-/healthz")).status_code == 200
            for _, writer in held:
                writer.close()

    asyncio.run(run())


def test_a_configuration_that_is_not_understood_is_refused():
    config = "defaults\nfrontend prometheus\n    bind :9101\nfrontend http\n    bind :8000\n"
    with pytest.raises(LbaeError, match=re.escape("matches '^listen stats")):
        _closed(config)
    whole = f"global\n    stats socket x mode 666 level admin y\n{config}listen stats\n  bind *:8404\n"
    assert _closed(whole) == (
        "global\n    stats socket x mode 600 level admin y\ndefaults\nfrontend http\n    bind :8000\n"
    )
