import asyncio
import io
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from lbae.web.app import create_app


class Stripes:
    """A backend whose image i shows the seed and i."""

    fingerprint = "abc"

    def sample(self, count: int, seed: int) -> np.ndarray:
        images = np.full((count, 8, 8, 1), seed % 200, dtype=np.uint8)
        images[:, 0] = np.arange(count, dtype=np.uint8)[:, None, None]
        return images


class Client:
    """Calls the application in this process, through ASGI."""

    def __init__(self) -> None:
        self.app = create_app(Stripes())

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def call() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://test") as client:
                return await client.request(method, path, **options)

        return asyncio.run(call())

    def post(self, path: str, json: Any) -> httpx.Response:
        return self.request("POST", path, json=json)


@pytest.fixture
def client() -> Client:
    return Client()


def test_readyz_names_the_bundle(client):
    assert client.request("GET", "/readyz").json() == {"status": "ready", "bundle": "abc"}


def test_sample_answers_a_png_grid_and_the_seed(client):
    answer = client.post("/v1/sample", json={"n": 4, "seed": 9})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert (answer.headers["x-seed"], answer.headers["x-bundle"]) == ("9", "abc")
    picture = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert picture.shape == (38, 38)
    assert picture[10, 10] == 9


def test_a_seed_is_drawn_when_none_is_given(client):
    seeds = {client.post("/v1/sample", json={}).headers["x-seed"] for _ in range(3)}
    assert len(seeds) == 3
    seed = seeds.pop()
    again = client.post("/v1/sample", json={"seed": int(seed)})
    assert again.content == client.post("/v1/sample", json={"seed": int(seed)}).content


@pytest.mark.parametrize("body", [{"n": 0}, {"n": 1025}, {"seed": -1}, {"seed": 2**63}, {"n": "x"}, {"count": 3}, []])
def test_what_is_out_of_range_or_unknown_is_refused(client, body):
    assert client.post("/v1/sample", json=body).status_code == 422
