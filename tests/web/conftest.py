import asyncio
import base64
import dataclasses
import io
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image

from lbae.config import ModelConfig
from lbae.core.bundle import Bundle
from lbae.core.latents.normals import Normals, pooled_factor
from lbae.core.latents.packing import pack
from lbae.core.moments.attribute_statistics import attribute_statistics
from lbae.core.moments.moment_accumulator import sum_packed
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.network.codec import Codec
from lbae.core.prior.prior import Prior
from lbae.core.prior.samplers import fit_sampler
from lbae.web.app import create_app
from lbae.web.backend.backend import Backend
from lbae.web.backend.bundle_backend import BundleBackend
from lbae.web.limits import Limits
from lbae.web.middleware import Observe
from tests.core.test_exchange import value_models

N = 21


def untrained_bundle(side: int = 16) -> Bundle:
    """An untrained network for colour images of 21 bits, a prior of two components, and the attributes "a"
    and "b".
    """
    rng = np.random.default_rng(0)
    present = rng.random((4000, 2)) < [0.4, 0.6]
    hidden = rng.normal(size=(4000, N))
    hidden[:, :5] += np.where(present[:, :1], 1.5, -1.5)
    hidden[:, 5:9] += np.where(present[:, 1:], 1.5, -1.5)
    latents = np.where(hidden >= 0, np.int8(1), np.int8(-1))
    sums = sum_packed(pack(latents), N, ("a", "b"), present, ~present)
    priors = [fit_sampler(sampler, sums) for sampler in ("gaussian", "independent")]
    config = ModelConfig(latent_dim=N, image_size=side, channels=(8,) * (side.bit_length() - 3))
    return Bundle(
        fingerprint="abc",
        codec=Codec(LatentBernoulliAutoencoder(config, torch.Generator().manual_seed(0)), "float32"),
        prior=Prior(
            sampler="gaussian",
            weights=np.array([0.5, 0.5]),
            factors=np.concatenate([prior.factors for prior in priors]),
            attributes=("a", "b"),
        ),
        normals=Normals(factor=pooled_factor(sums), latent_dim=N),
        attributes=attribute_statistics(sums),
        values=value_models(latents, [present[:, :1], present[:, 1:]]),
        examples=np.random.default_rng(5).integers(0, 256, (2, side, side, 3), dtype=np.uint8),
    )


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    """An untrained bundle for images of 16 x 16 pixels."""
    return untrained_bundle()


def renamed(bundle: Bundle, names: tuple[str, ...]) -> Bundle:
    """The bundle with other names for its attributes "a" and "b"."""
    return dataclasses.replace(
        bundle,
        prior=dataclasses.replace(bundle.prior, attributes=names),
        attributes=dataclasses.replace(bundle.attributes, names=names),
    )


Opened = Callable[[], Awaitable[Callable[[], Backend]]]


def opened(bundle: Bundle) -> Opened:
    """A ``start_backend`` of the application whose backend never changes."""

    async def open_() -> Callable[[], Backend]:
        backend = BundleBackend(bundle)
        return lambda: backend

    return open_


class Client:
    """Calls the application in this process, through ASGI."""

    def __init__(self, bundle: Bundle, limits: Limits) -> None:
        self.seen: list[tuple[str, int]] = []
        self.app = create_app(
            opened(bundle), limits, lambda route, status, seconds: self.seen.append((route, status))
        )

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.requests((method, path, options))[0]

    def requests(self, *calls: tuple[str, str, dict[str, Any]]) -> list[httpx.Response]:
        """Send several requests at once."""

        async def call() -> list[httpx.Response]:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with (
                self.app.router.lifespan_context(self.app),
                httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client,
            ):
                return await asyncio.gather(
                    *(client.request(method, path, **rest) for method, path, rest in calls)
                )

        return asyncio.run(call())

    def post(self, path: str, json: Any, **options: Any) -> httpx.Response:
        return self.request("POST", path, json=json, **options)


@contextmanager
def listening(
    served: Bundle | Opened,
    limits: Limits,
    port: int = 0,
    observe: Observe = lambda route, status, seconds: None,
    root_path: str = "",
) -> Iterator[str]:
    """Serve the application on a local socket; gives its URL without the prefix ``root_path``."""
    app = create_app(opened(served) if isinstance(served, Bundle) else served, limits, observe)

    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        """Mounts as Ray Serve does, which leaves the prefix in the path."""
        await app({**scope, "root_path": root_path}, receive, send)

    listener = socket.create_server(("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(mounted, log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)


@pytest.fixture(scope="module")
def url(bundle: Bundle) -> Iterator[str]:
    """URL of the application on a local socket, for any HTTP client."""
    with listening(bundle, Limits()) as found:
        yield found


@pytest.fixture
def limits() -> Limits:
    return Limits()


@pytest.fixture
def client(bundle: Bundle, limits: Limits) -> Client:
    return Client(bundle, limits)


def image_file(seed: int, size: tuple[int, int] = (16, 16), kind: str = "png") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def pixels_of(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)))
