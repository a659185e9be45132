"""The HTTP application. It takes a backend (a bundle, or something that answers as one) and knows nothing of Ray."""

import time
from typing import Annotated, Protocol

import numpy as np
from fastapi import FastAPI, Response
from pydantic import BaseModel, ConfigDict, Field

from lbae.io.images import encode_png, square_grid

MAX_IMAGES = 1024


class Backend(Protocol):
    """What the service needs of a bundle."""

    @property
    def fingerprint(self) -> str:
        """Identifies the bundle that answers."""

    def sample(self, count: int, seed: int) -> np.ndarray:
        """uint8 images (count, H, W, C)."""


class SampleRequest(BaseModel):
    """How many images, and the seed that decides them; without a seed one is drawn and returned."""

    model_config = ConfigDict(extra="forbid")

    n: Annotated[int, Field(ge=1, le=MAX_IMAGES, description="number of images, shown as one grid")] = 16
    seed: Annotated[int | None, Field(ge=0, lt=2**63)] = None


def create_app(backend: Backend) -> FastAPI:
    """The service over one backend: ``GET /readyz`` and ``POST /v1/sample``."""
    app = FastAPI(title="Latent Bernoulli Autoencoder", docs_url=None, redoc_url=None)

    @app.get("/readyz")
    def ready() -> dict[str, str]:
        return {"status": "ready", "bundle": backend.fingerprint}

    @app.post("/v1/sample", responses={200: {"content": {"image/png": {}}}}, response_class=Response)
    def sample(request: SampleRequest) -> Response:
        seed = int(np.random.SeedSequence().generate_state(1)[0]) if request.seed is None else request.seed
        started = time.perf_counter()
        picture = encode_png(square_grid(backend.sample(request.n, seed)))
        headers = {
            "X-Seed": str(seed),
            "X-Bundle": backend.fingerprint,
            "Server-Timing": f"sample;dur={1000 * (time.perf_counter() - started):.1f}",
        }
        return Response(picture, media_type="image/png", headers=headers)

    return app
