"""The memory that requests hold: what is refused, what is not, and when it is given back."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from lbae.web.answers import answer_formats
from lbae.web.answers.error_answers import RequestError
from lbae.web.backend import edit_verbs
from lbae.web.limits import Limits
from lbae.web.memory import BODY_COPIES, MemoryBudget, MemoryShare
from lbae.web.requests import batches
from tests.web.conftest import Client, b64, image_file

JSON = {"content-type": "application/json"}


def status(claim: Callable[[], None]) -> int | None:
    """The status with which a claim is refused."""
    try:
        claim()
    except RequestError as error:
        return error.status_code
    return None


def test_memory_is_refused_while_others_hold_it_and_given_back_by_the_last_user():
    budget = MemoryBudget(6400)
    first, second = MemoryShare(budget), MemoryShare(budget)
    first.claim(5000)
    assert status(lambda: second.claim(1000)) == 503
    first.keep()
    first.let_go()
    assert status(lambda: second.claim(1000)) == 503  # a thread still works for the first request
    first.let_go()
    second.claim(1000)
    assert budget.free == 5400


def test_what_can_never_be_free_is_refused_for_good():
    share = MemoryShare(MemoryBudget(6400))
    share.claim(5000)
    with pytest.raises(RequestError, match=r"takes 0 MB of memory; allowed: 0 MB; send less") as refused:
        share.claim(601)
    assert refused.value.status_code == 413


def test_small_requests_have_room_beside_large_ones():
    budget = MemoryBudget(6400)
    large, other, small = MemoryShare(budget), MemoryShare(budget), MemoryShare(budget)
    large.claim(5600)
    assert status(lambda: other.claim(101)) == 503
    small.claim(100)


def test_a_body_is_refused_before_it_is_sent_and_when_it_grows_too_large(bundle):
    """A client sends one body slowly; meanwhile another large one gets 503 at once, and a small one 200."""
    client = Client(bundle, Limits(max_memory_bytes=64_000))
    held, read = asyncio.Event(), asyncio.Event()
    text = json.dumps({"n": 1, "format": "latents"}).encode()

    async def slow():
        yield b" " * 12_000
        held.set()
        await read.wait()
        yield text

    async def run() -> list[httpx.Response]:
        transport = httpx.ASGITransport(client.app, raise_app_exceptions=False)
        async with (
            client.app.router.lifespan_context(client.app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as http,
        ):

            def post(content: Any, **headers: str) -> Any:
                return http.post("/v1/sample", content=content, headers=JSON | headers)

            first = asyncio.create_task(post(slow()))
            await held.wait()
            others = [
                await post(b" " * 12_000 + text),
                await post(text),
                await post(slow()),
            ]
            read.set()
            return [*others, await first, await post(b" " * 12_000 + text)]

    announced, small, grown, first, later = asyncio.run(run())
    assert [a.status_code for a in (announced, small, grown, first, later)] == [503, 200, 503, 200, 200]
    for refused in (announced, grown):
        assert (refused.headers["retry-after"], refused.json()["error"]["type"]) == ("1", "overloaded")


def test_json_that_python_would_blow_up_is_refused(bundle):
    client = Client(bundle, Limits())
    many = client.request(
        "POST", "/v1/encode", content=b'{"images": [' + b"[]," * 70_000 + b"0]}", headers=JSON
    )
    assert many.status_code == 400
    assert "too many commas and opening brackets; allowed: 65536" in many.json()["error"]["message"]
    short = Client(bundle, Limits(max_memory_bytes=1_000_000))
    for wide, code in (("a", 200), ("\U0001f600", 413), ("\\ud83d\\ude00", 413)):
        text = '{"images": ["' + wide + "A" * 100_000 + '"]}'
        answer = short.request("POST", "/v1/encode", content=text.encode(), headers=JSON)
        assert answer.status_code == code


@pytest.mark.parametrize("path", ["sample", "interpolate"])
def test_an_object_of_many_names_is_refused_before_each_name_gets_an_error(bundle, path):
    """64 bodies of 65,500 unknown names would else take pydantic 17 s, and the service answers nobody."""
    names = {str(i): 0 for i in range(129)}
    for body in (names, {"given": names}, {"items": [{"latent": ""}, names]}):
        answer = Client(bundle, Limits()).post(f"/v1/{path}", body)
        assert (answer.status_code, answer.json()["error"]["type"]) == (422, "invalid_request")
        assert "an object of the JSON has 129 names; allowed: 128" in answer.json()["error"]["message"]


def test_json_is_utf_8_with_or_without_a_mark(bundle):
    """In UTF-16 escapes take eight times the body, where four times are claimed."""
    client, text = Client(bundle, Limits()), '{"n": 1}'
    codes = [
        client.request("POST", "/v1/sample", content=text.encode(encoding), headers=JSON).status_code
        for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32")
    ]
    assert codes == [200, 200, 400, 400, 400]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("sample", {"n": 16}),
        ("sample", {"n": 16, "format": "zip"}),
        ("interpolate", {"items": [{"latent": "AAAA"}] * 2, "format": "webp"}),
        ("interpolate", {"items": [{"latent": "AAAA"}] * 2, "format": "stream"}),
        ("edit", {"item": {"latent": "AAAA"}, "set": ["a"], "until": 0.5}),
        ("encode", {"images": [b64(image_file(0))] * 16}),
        ("decode", {"latents": ["AAAA"] * 16}),
        ("reconstruct", {"images": [b64(image_file(0))] * 16}),
        ("variations", {"item": {"latent": "AAAA"}, "n": 16}),
        ("images/generations", {"prompt": "", "n": 16}),
    ],
)
def test_images_are_claimed_before_they_are_made(bundle, monkeypatch, path, body):
    room = BODY_COPIES * len(json.dumps(body).encode())
    client = Client(bundle, Limits(max_memory_bytes=room * 8 // 7 + 10_000))
    made = []
    for verb in ("encode", "decode"):
        monkeypatch.setattr(type(bundle.codec), verb, lambda self, rows: made.append(len(rows)) or 1 / 0)
    answer = client.post(f"/v1/{path}", body)
    assert (answer.status_code, answer.json()["error"]["type"], made) == (413, "too_large", [])
    Client(bundle, Limits()).post(f"/v1/{path}", body)
    assert made


def test_an_answer_goes_in_pieces_and_holds_its_memory_until_it_is_read(bundle):
    """Clients that read nothing would else leave any number of answers in the server's buffers."""
    client, ask = Client(bundle, Limits(max_memory_bytes=4_000_000)), {"n": 1024, "seed": 0, "format": "zip"}
    pieces: list[bytes] = []

    async def run() -> list[int]:
        reading, begun = asyncio.Event(), asyncio.Event()

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.body":
                begun.set()
                await reading.wait()
                pieces.append(message["body"])

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": json.dumps(ask).encode()}

        scope = {"type": "http", "method": "POST", "path": "/v1/sample", "query_string": b""}
        scope["headers"] = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        transport = httpx.ASGITransport(client.app)
        async with (
            client.app.router.lifespan_context(client.app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as http,
        ):
            unread = asyncio.create_task(client.app(scope, receive, send))
            await begun.wait()
            answers = [await http.post("/v1/sample", json=asked) for asked in (ask, {"n": 1})]
            reading.set()
            await unread
            answers.append(await http.post("/v1/sample", json=ask))
            return [answer.status_code for answer in answers]

    assert asyncio.run(run()) == [503, 200, 200]
    assert len(pieces) > 1
    assert max(map(len, pieces)) <= 2**18
    assert b"".join(pieces) == Client(bundle, Limits()).post("/v1/sample", ask).content


def test_a_cancelled_request_holds_its_memory_while_its_thread_runs(bundle, monkeypatch):
    begun, go, make = threading.Event(), threading.Event(), answer_formats.zip_response

    def stuck(images: np.ndarray) -> Any:
        begun.set()
        go.wait(60)
        return make(images)

    monkeypatch.setattr(answer_formats, "zip_response", stuck)
    client = Client(bundle, Limits(max_memory_bytes=4_000_000, max_seconds=2))
    large = ("POST", "/v1/sample", {"json": {"n": 1024, "format": "zip"}})
    assert client.request(*large[:2], **large[2]).status_code == 504
    assert begun.is_set()
    assert client.request(*large[:2], **large[2]).status_code == 503
    go.set()
    until = time.monotonic() + 60
    while (last := client.request(*large[:2], **large[2]).status_code) == 503 and time.monotonic() < until:
        time.sleep(0.05)
    assert last == 200


def test_a_small_upload_is_read_between_the_images_of_large_ones(client, monkeypatch):
    """Both reader threads have images of large batches to read."""
    read, finished = batches.decode_image_field, []

    def slow(*arguments: Any, **options: Any) -> np.ndarray:
        time.sleep(0.02)
        return read(*arguments, **options)

    monkeypatch.setattr(batches, "decode_image_field", slow)

    async def run() -> None:
        transport = httpx.ASGITransport(client.app)
        async with (
            client.app.router.lifespan_context(client.app),
            httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as http,
        ):

            async def encode(count: int) -> None:
                answer = await http.post("/v1/encode", json={"images": [b64(image_file(0))] * count})
                assert len(answer.json()["results"]) == count
                finished.append(count)

            large = [asyncio.create_task(encode(count)) for count in (50, 51, 52, 53)]
            await asyncio.sleep(0.05)
            await asyncio.gather(encode(1), *large)

    asyncio.run(run())
    assert finished[0] == 1


def test_edits_run_one_at_a_time(client, monkeypatch):
    """Two edits at once would compute the same matrices twice."""
    running, seen, edit = [0], [], edit_verbs.edit

    def watched(*arguments: Any) -> np.ndarray:
        running[0] += 1
        seen.append(running[0])
        time.sleep(0.02)
        running[0] -= 1
        return edit(*arguments)

    monkeypatch.setattr(edit_verbs, "edit", watched)
    ask = ("POST", "/v1/edit", {"json": {"item": {"latent": "AAAA"}, "set": ["a"], "format": "latents"}})
    assert {answer.status_code for answer in client.requests(*[ask] * 6)} == {200}
    assert seen == [1] * 6
