import asyncio

import httpx
import numpy as np
import pytest
import tenacity
from tenacity import stop_after_delay

from lbae.core.latents.packing import pack
from lbae.web import client as web
from lbae.web.app import create_app
from lbae.web.limits import Limits
from tests.web.conftest import image_file, opened, pixels_of


class Flaky(httpx.ASGITransport):
    """The application behind a network whose first attempts end with the given faults."""

    def __init__(self, app, faults: list) -> None:
        super().__init__(app, raise_app_exceptions=False)
        self.faults = list(faults)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.faults:
            fault = self.faults.pop()
            if isinstance(fault, Exception):
                raise fault
            return httpx.Response(fault, text="a proxy's words")
        return await super().handle_async_request(request)


def send(bundle, *calls, key="one", faults=()):
    app = create_app(opened(bundle), Limits(keys=("one",)))

    async def run() -> list:
        transport = Flaky(app, faults)
        async with (
            app.router.lifespan_context(app),
            web.AsyncClient("http://test", key, transport=transport) as service,
        ):
            return [await service.send(call) for call in calls]

    return asyncio.run(run())


def test_every_verb_against_the_bundle(bundle):
    files = [image_file(1), image_file(2)]
    latents = bundle.encode(np.stack([pixels_of(file) for file in files]))
    drawn, (first, bad, second), path, varied, edited, known, about = send(
        bundle,
        web.sample(2, seed=3, given={"a": True}, format="zip"),
        web.encode([files[0], b"no image", files[1]]),
        web.interpolate([files[0], web.Latent(pack(latents)[1].tobytes())], steps=3, format="webp"),
        web.vary(files[0], 1, strength=0.4, seed=5, format="png"),
        web.edit(files[0], set=["a"], strength=0.5),
        web.attributes(),
        web.model(),
    )
    assert (drawn.media_type, drawn.seed, drawn.bundle, drawn.bits_changed) == (
        "application/zip",
        3,
        "abc",
        None,
    )
    assert [first.packed, second.packed] == [row.tobytes() for row in pack(latents)]
    assert (bad.status, bad.kind, bad.param) == (422, "invalid_request", "1")
    assert path.media_type == "image/webp"
    np.testing.assert_array_equal(
        pixels_of(varied.content), bundle.vary(pixels_of(files[0])[None], 1, 5, 0.4)[0]
    )
    assert varied.seed == 5
    np.testing.assert_array_equal(
        pixels_of(edited.content), bundle.edit(pixels_of(files[0])[None], ["a"], strength=0.5)[0][0]
    )
    assert edited.bits_changed == bundle.edit(pixels_of(files[0])[None], ["a"], strength=0.5)[1][0]
    assert (list(known), about["fingerprint"]) == (["a", "b"], "abc")
    (decoded,), (rebuilt,) = send(bundle, web.decode([first]), web.reconstruct([files[0]]))
    assert decoded == rebuilt
    np.testing.assert_array_equal(pixels_of(decoded), bundle.decode(latents[:1])[0])


def test_a_refusal_is_raised(bundle):
    with pytest.raises(web.ServiceError, match="less than or equal to 1024") as error:
        send(bundle, web.sample(2000))
    assert (error.value.status, error.value.kind, error.value.param) == (422, "invalid_request", "n")
    with pytest.raises(web.ServiceError, match="a valid API key is needed"):
        send(bundle, web.model(), key="two")


def test_lost_connections_and_full_services_are_retried(bundle, monkeypatch):
    faults = [503, httpx.ReadError("lost"), httpx.ConnectError("refused")]
    (answer,) = send(bundle, web.sample(1, seed=1), faults=faults)
    assert answer.seed == 1
    (answer,) = send(bundle, web.sample(1, seed=1), faults=[500])  # from a proxy whose replica died
    assert answer.seed == 1
    monkeypatch.setitem(web._RETRY, "stop", stop_after_delay(0.5))
    with pytest.raises(web.ServiceError, match="503 Service Unavailable"):
        send(bundle, web.sample(1, seed=1), faults=[503] * 100)


def test_a_retry_waits_as_long_as_the_service_asks(monkeypatch):
    slept, answers = [], [httpx.Response(503, headers={"retry-after": after}) for after in ("1", "7", "soon")]
    answers.append(httpx.Response(200, json={"fingerprint": "abc"}))
    monkeypatch.setattr(tenacity.nap.time, "sleep", slept.append)
    with web.Client("http://test", transport=httpx.MockTransport(lambda _: answers.pop(0))) as service:
        assert service.send(web.model()) == {"fingerprint": "abc"}
    assert [int(seconds) for seconds in slept[:2]] == [1, 7]
    assert len(slept) == 3


def test_a_timeout_is_not_retried(bundle):
    faults = [httpx.ReadTimeout("slow")]
    with pytest.raises(httpx.ReadTimeout):
        send(bundle, web.sample(1, seed=1), faults=faults)
    with web.Client("http://test") as service:
        assert service._http.timeout.read > Limits().max_seconds


def test_an_error_of_the_service_itself_is_not_retried(bundle, monkeypatch):
    monkeypatch.setattr(type(bundle.codec), "decode", lambda self, latents: 1 / 0)
    with pytest.raises(web.ServiceError, match="the service failed") as error:
        send(bundle, web.sample(1, seed=1), faults=[])
    assert (error.value.status, error.value.kind) == (500, "internal")


def test_the_client_without_an_event_loop():
    tries = []

    def answer(request: httpx.Request) -> httpx.Response:
        tries.append(request.headers["authorization"])
        return httpx.Response(200, json={"fingerprint": "abc"}) if len(tries) > 1 else httpx.Response(503)

    with web.Client("http://test", "one", transport=httpx.MockTransport(answer)) as service:
        assert service.send(web.model()) == {"fingerprint": "abc"}
    assert tries == ["Bearer one"] * 2
