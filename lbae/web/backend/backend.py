"""The backend of the HTTP service: its interface, and the facts of its bundle. It does not load torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import numpy as np
from fastapi import Depends, Request

from lbae.config import ModelConfig, Precision

# Called with the verb, the rows of a batch, and the number of requests that wait behind it.
OnBatch = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class BundleFacts:
    """The facts of a bundle that clients may see. ``conditions``: attributes that samples can be given."""

    fingerprint: str
    config: ModelConfig
    precision: Precision
    sampler: str
    components: int
    conditions: tuple[str, ...]
    attributes: dict[str, dict[str, Any]]
    examples: np.ndarray


class Verbs:
    """Some verbs of a backend, with the parts of a bundle that they need."""

    def check(self) -> None:
        """Raise LbaeError when the verbs are stuck and their replica must be replaced."""


class Backend(Protocol):
    """The verbs of the service. Latents are int8 (K, N), images uint8 (K, H, W, C).

    A verb raises UserError for a request that cannot be carried out.
    """

    facts: BundleFacts

    async def draw(
        self, count: int, seed: int, given: Mapping[str, bool], component: int | None, temperature: float
    ) -> np.ndarray:
        """Latents drawn from the prior, or from one of its components."""

    async def move_to_given(self, latents: np.ndarray, given: Mapping[str, bool]) -> np.ndarray:
        """Drawn latents, edited so that their images show the attributes that they were drawn with."""

    async def vary(self, latents: np.ndarray, count: int, seed: int, strength: float) -> np.ndarray:
        """``count`` variations of each latent."""

    async def path(self, waypoints: np.ndarray, steps: int, seed: int) -> np.ndarray:
        """Latents on a path through all waypoints, ``steps`` per leg with both its ends."""

    async def edit(
        self,
        latents: np.ndarray,
        set_: Sequence[str],
        unset: Sequence[str],
        strength: float,
        method: str,
    ) -> np.ndarray:
        """Latents with attributes set and unset."""

    async def edit_at_all(self, latents: np.ndarray, set_: Sequence[str], unset: Sequence[str]) -> np.ndarray:
        """The latents edited at each of ``STRENGTHS``."""

    async def confidence(self, latents: np.ndarray, set_: Sequence[str], unset: Sequence[str]) -> np.ndarray:
        """The probability that each latent has attributes set and unset as asked."""

    async def encode(self, images: np.ndarray) -> np.ndarray:
        """Latents of images."""

    async def decode(self, latents: np.ndarray) -> np.ndarray:
        """Images of latents."""

    async def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """Images of the latents of images."""

    async def recode(self, latents: np.ndarray) -> np.ndarray:
        """Latents of the images of latents: their bits say what the images show."""

    def check(self) -> None:
        """Raise LbaeError when the backend is stuck and its replica must be replaced."""


def current_backend(request: Request) -> Backend:
    """The backend of one request, which it keeps even if the bundle is swapped meanwhile."""
    backend: Backend = request.app.state.current()
    request.state.bundle = backend.facts.fingerprint  # for the header X-Bundle
    return backend


CurrentBackend = Annotated[Backend, Depends(current_backend)]
