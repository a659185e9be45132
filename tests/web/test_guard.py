import asyncio
import io
import os
import socket
import threading
import time

import httpx
import numpy as np
import pytest
from PIL import Image

from lbae.errors import UserError
from lbae.web import middleware
from lbae.web.limits import KEYS_VARIABLE, Limits, read_api_keys
from tests.web.conftest import Client, b64, image_file, listening


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer wrong", "Basic one", "one", "Bearer öne"])
def test_requests_without_a_valid_key_are_refused(bundle, header):
    client = Client(bundle, Limits(keys=("one", "two")))
    headers = {"authorization": header.encode()} if header else {}
    for path in ("sample", "encode", "nothing"):
        answer = client.request("POST", f"/v1/{path}", json={}, headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert answer.json()["error"]["type"] == "unauthorized"
    assert client.request("GET", "/readyz").status_code == 200


@pytest.mark.parametrize("key", ["one", "two"])
def test_each_of_several_keys_is_accepted(bundle, key):
    client = Client(bundle, Limits(keys=("one", "two")))
    headers = {"authorization": f"Bearer {key}"}
    assert client.request("GET", "/v1/model", headers=headers).status_code == 200


def test_a_body_that_is_too_large_is_refused_with_and_without_its_length(bundle):
    client = Client(bundle, Limits(max_body_bytes=1000))

    async def pieces():
        for _ in range(20):
            yield b" " * 100

    for content in (b" " * 2000, pieces()):
        answer = client.request(
            "POST", "/v1/sample", content=content, headers={"content-type": "application/json"}
        )
        assert (answer.status_code, answer.json()["error"]["type"]) == (413, "too_large")


def test_the_pixel_limit_is_checked_before_decoding(bundle):
    client = Client(bundle, Limits(max_pixels=400))
    results = client.post(
        "/v1/encode", {"images": [b64(image_file(1)), b64(image_file(1, (21, 20)))]}
    ).json()["results"]
    assert "error" not in results[0]
    assert "21 x 20 pixels; allowed: 400 pixels" in results[1]["error"]["message"]
    bomb = io.BytesIO()
    Image.fromarray(np.zeros((9000, 9000), np.uint8)).save(bomb, "PNG")
    (result,) = (
        Client(bundle, Limits()).post("/v1/encode", {"images": [b64(bomb.getvalue())]}).json()["results"]
    )
    assert "9000 x 9000 pixels" in result["error"]["message"]


def test_the_pixel_limit_follows_from_the_models_size(bundle):
    """The model's images have 16 x 16 pixels, of which each may come from 64 x 64 pixels of an upload."""
    images = [
        b64(image_file(0, size, kind))
        for size, kind in (
            ((1024, 1024), "png"),
            ((1025, 1024), "png"),
            ((1025, 1024), "webp"),
            ((4000, 3000), "jpeg"),
        )
    ]
    results = Client(bundle, Limits()).post("/v1/encode", {"images": images}).json()["results"]
    assert ["error" in result for result in results] == [False, True, True, False]
    assert "1025 x 1024 pixels; allowed: 1048576 pixels" in results[1]["error"]["message"]


def test_requests_beyond_max_running_get_503_and_retry_after(bundle):
    client = Client(bundle, Limits(max_running=2))
    answers = client.requests(*[("POST", "/v1/sample", {"json": {"n": 1, "seed": i}}) for i in range(6)])
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [200] * 2 + [503] * 4
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert (refused.headers["retry-after"], refused.json()["error"]["type"]) == ("1", "overloaded")
    assert client.post("/v1/sample", {"n": 1}).status_code == 200  # there is room again


def test_a_body_that_does_not_arrive_in_time_gets_408(bundle):
    client = Client(bundle, Limits(max_seconds=0.2))

    async def never_done():
        yield b"{"
        await asyncio.sleep(60)

    answer = client.request(
        "POST", "/v1/sample", content=never_done(), headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["error"]["type"]) == (408, "timeout")
    assert "the request body did not arrive within 0.2 s" in answer.json()["error"]["message"]


def test_a_body_that_does_not_arrive_in_time_over_a_socket_gets_408(bundle):
    with (
        listening(bundle, Limits(max_seconds=0.5)) as url,
        socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=60) as connection,
    ):
        connection.sendall(
            b"POST /v1/sample HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        )
        connection.sendall(b"content-length: 99\r\n\r\n{")
        assert connection.recv(2**16).startswith(b"HTTP/1.1 408 ")


def test_a_body_that_stops_gets_408_and_a_slow_one_is_read(bundle, monkeypatch):
    """Half-sent bodies would else keep all others out until the time limit of a request."""
    monkeypatch.setattr(middleware, "_GRACE_S", 0.5)
    monkeypatch.setattr(middleware, "_BYTES_PER_S", 2)
    client = Client(bundle, Limits())

    async def body(pause_s: float):
        for byte in b'{"n":1}':
            yield bytes([byte])
            await asyncio.sleep(pause_s)

    stopped, slow = (
        client.request(
            "POST", "/v1/sample", content=body(pause_s), headers={"content-type": "application/json"}
        )
        for pause_s in (60, 0.1)
    )
    assert (stopped.status_code, stopped.json()["error"]["type"]) == (408, "timeout")
    assert "only 1 bytes of the request body arrived in 1 s" in stopped.json()["error"]["message"]
    assert slow.status_code == 200


def test_a_response_that_takes_too_long_is_a_504(bundle, monkeypatch):
    client = Client(bundle, Limits(max_seconds=1))
    monkeypatch.setattr(type(bundle.codec), "decode", lambda self, latents: time.sleep(3))
    answer = client.post("/v1/sample", {"n": 1})
    assert (answer.status_code, answer.json()["error"]["type"]) == (504, "timeout")
    assert client.seen == [("/v1/sample", 504)]


def test_a_client_that_disconnects_counts_as_499(bundle, caplog):
    seen: list[tuple[str, int]] = []
    head = (
        b"POST /v1/encode HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length:"
        b" 99\r\n\r\n{"
    )
    with listening(
        bundle, Limits(), observe=lambda route, status, seconds: seen.append((route, status))
    ) as url:
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as connection:
            connection.sendall(head)
        while not seen:
            httpx.get(f"{url}/healthz")
            seen = [one for one in seen if one[0] != "/healthz"]
    assert seen == [("/v1/encode", 499)]
    assert caplog.text == ""


def test_a_request_that_its_server_cancels_counts_as_499(bundle, monkeypatch):
    """Ray Serve cancels a request when the client of its proxy disconnects."""
    client, asked = Client(bundle, Limits()), threading.Event()
    monkeypatch.setattr(
        type(bundle.codec), "decode", lambda self, latents: (asked.set(), time.sleep(0.5), latents)[-1]
    )

    async def run() -> None:
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/decode",
            "query_string": b"",
            "http_version": "1.1",
        }
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        body = {"type": "http.request", "body": b'{"latents": ["AAAA"]}'}

        async def receive() -> dict:
            return body

        async def send(message: dict) -> None:
            raise AssertionError(message)

        async with client.app.router.lifespan_context(client.app):
            request = asyncio.create_task(client.app({**scope, "headers": headers}, receive, send))
            await asyncio.to_thread(asked.wait, 30)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request

    asyncio.run(run())
    assert client.seen == [("/v1/decode", 499)]


@pytest.mark.parametrize("prefix", ["", "/models/faces"])
def test_the_guard_works_under_a_prefix(bundle, prefix):
    """Servers pass the prefix under which they mount an application as root_path, and keep it in the path."""
    client = Client(bundle, Limits(keys=("one",), max_body_bytes=100))
    transport = httpx.ASGITransport(client.app, root_path=prefix, raise_app_exceptions=False)

    async def run() -> list[int]:
        async with (
            client.app.router.lifespan_context(client.app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as http,
        ):
            key = {"authorization": "Bearer one"}
            answers = [
                await http.get(f"{prefix}/healthz"),
                await http.get(f"{prefix}/v1/model"),
                await http.get(f"{prefix}/v1/model", headers=key),
                await http.post(f"{prefix}/v1/sample", json={"n": 1}),
                await http.post(f"{prefix}/v1/sample", content=b" " * 101, headers=key),
            ]
            return [answer.status_code for answer in answers]

    assert asyncio.run(run()) == [200, 401, 200, 401, 413]


def test_every_request_is_observed_with_its_route(client):
    client.post("/v1/sample", {"n": 1})
    client.post("/v1/sample", {"n": 0})
    client.request("GET", "/somewhere")
    assert client.seen == [("/v1/sample", 200), ("/v1/sample", 422), ("none", 404)]


def test_an_internal_error_reveals_nothing(bundle, monkeypatch):
    client = Client(bundle, Limits())
    monkeypatch.setattr(type(bundle.codec), "decode", lambda self, latents: 1 / 0)
    answer = client.post("/v1/sample", {"n": 1})
    assert answer.status_code == 500
    assert answer.json() == {
        "error": {"type": "internal", "message": "the service failed; the cause is in its log", "param": None}
    }
    assert client.seen == [("/v1/sample", 500)]


def test_every_response_tells_the_time_taken_and_those_with_a_key_the_bundle(bundle, monkeypatch):
    client = Client(bundle, Limits(keys=("one",), max_body_bytes=100))
    key = {"headers": {"authorization": "Bearer one"}}
    monkeypatch.setattr(type(bundle.codec), "decode", lambda self, latents: 1 / 0)
    known = [
        client.request("GET", "/v1/none", **key),
        client.post("/v1/sample", {"n": "x" * 101}, **key),
        client.post("/v1/sample", {"n": 1}, **key),
        client.request("GET", "/readyz", **key),
    ]
    unknown = [client.request("GET", path) for path in ("/v1/model", "/healthz", "/readyz", "/", "/none")]
    assert [answer.status_code for answer in known + unknown] == [404, 413, 500, 200, 401, 200, 200, 200, 404]
    assert [answer.headers.get("x-bundle") for answer in known + unknown] == ["abc"] * 4 + [None] * 5
    assert not [answer for answer in unknown if "abc" in answer.text]
    assert all(answer.headers["server-timing"].startswith("total;dur=") for answer in known + unknown)


def test_no_answer_is_stored_or_taken_for_another_type(client):
    calls = [("GET", "/v1/examples"), ("POST", "/v1/sample"), ("GET", "/v1/none"), ("GET", "/readyz")]
    answers = [client.request(method, path) for method, path in calls]
    assert [answer.headers["cache-control"] for answer in answers] == ["no-store"] * 4
    page = client.request("GET", "/")
    assert page.headers["cache-control"] == "no-cache"
    assert {answer.headers["x-content-type-options"] for answer in (*answers, page)} == {"nosniff"}


OPEN = {"required": True, "where": "host 0.0.0.0"}


def test_an_open_interface_needs_keys(tmp_path, monkeypatch):
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    assert read_api_keys(None, required=False, where="host 127.0.0.1") == ()
    with pytest.raises(
        UserError, match=r"host 0\.0\.0\.0 is open to other machines and there are no API keys"
    ):
        read_api_keys(None, **OPEN)
    file = tmp_path / "keys"
    file.write_text("one\n\n two \n")
    assert read_api_keys(str(file), **OPEN) == ("one", "two")
    for saved in (
        "\ufeffone\r\ntwo\r\n",
        "one\ntwo",
    ):  # as editors on Windows save it; without a final newline
        file.write_text(saved, encoding="utf-8")
        assert read_api_keys(str(file), **OPEN) == ("one", "two")
    monkeypatch.setitem(os.environ, KEYS_VARIABLE, "three, four")
    assert read_api_keys(None, **OPEN) == ("three", "four")
    file.write_text("\n")
    with pytest.raises(UserError, match="holds no key"):
        read_api_keys(str(file), required=False, where="host 127.0.0.1")
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_api_keys(str(tmp_path / "none"), required=False, where="host 127.0.0.1")
    file.write_text("one\nclé")
    with pytest.raises(
        UserError, match=r"API key 2 of .* has characters that clients cannot send"
    ) as refused:
        read_api_keys(str(file), required=False, where="host 127.0.0.1")
    assert "clé" not in str(refused.value)
    file.write_text("one", encoding="utf-16")
    with pytest.raises(UserError, match="is not UTF-8; save it as UTF-8"):
        read_api_keys(str(file), required=False, where="host 127.0.0.1")
