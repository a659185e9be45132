"""The backend of the HTTP service: its interface, and its implementation by a bundle in this process."""

import asyncio
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import numpy as np
from fastapi import Depends, Request

from lbae.config import ModelConfig, Precision
from lbae.core.bundle import Bundle
from lbae.core.latents.editing import confidence, edit
from lbae.core.latents.guided_strength import edit_at_all
from lbae.core.latents.interpolation import interpolate
from lbae.core.moments.attribute_statistics import leading_bits
from lbae.errors import LbaeError
from lbae.web.backend.batching import Batcher

_LEADING = 5
_STUCK_S = 60

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


def bundle_facts(bundle: Bundle) -> BundleFacts:
    """Return the facts of a bundle that clients may see."""
    statistics, values = bundle.attributes, bundle.values
    leading = leading_bits(statistics, _LEADING)
    trusted = [values is not None and values.trusted(i) for i in range(len(statistics.names))]
    rows = zip(statistics.names, statistics.set_count, statistics.unset_count, trusted, strict=True)
    return BundleFacts(
        fingerprint=bundle.fingerprint,
        config=bundle.codec.config,
        precision=bundle.codec.precision,
        sampler=bundle.prior.sampler,
        components=len(bundle.prior.weights),
        conditions=bundle.prior.attributes,
        attributes={
            name: {
                "set": int(set_),
                "unset": int(unset),
                "trusted": trusted,
                "leading_bits": leading.get(name, []),
            }
            for name, set_, unset, trusted in rows
        },
        examples=bundle.examples,
    )


class Backend(Protocol):
    """The verbs of the service. Latents are int8 (K, N), images uint8 (K, H, W, C).

    A verb raises UserError for a request that cannot be carried out.
    """

    facts: BundleFacts

    async def draw(
        self, count: int, seed: int, given: Mapping[str, bool], component: int | None, temperature: float
    ) -> np.ndarray:
        """Latents drawn from the prior, or from one of its components."""

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

    def check(self) -> None:
        """Raise LbaeError when the backend is stuck and its replica must be replaced."""


def current_backend(request: Request) -> Backend:
    """The backend of one request, which it keeps even if the bundle is swapped meanwhile."""
    backend: Backend = request.app.state.current()
    request.state.bundle = backend.facts.fingerprint  # for the header X-Bundle
    return backend


CurrentBackend = Annotated[Backend, Depends(current_backend)]


class BundleBackend:
    """Runs a bundle in threads of this process; the codec batches the rows of several requests."""

    def __init__(self, bundle: Bundle, on_batch: OnBatch = lambda verb, rows, waiting: None) -> None:
        self.bundle = bundle
        self.facts = bundle_facts(bundle)
        # One thread, because the codec itself uses all of the process's threads.
        thread = ThreadPoolExecutor(1, thread_name_prefix="codec")
        size = bundle.codec.rows
        self._encode = Batcher(bundle.encode, size, functools.partial(on_batch, "encode"), thread)
        self._decode = Batcher(bundle.decode, size, functools.partial(on_batch, "decode"), thread)
        # One thread for edits and variations: they compute matrices of N x N, two at once perhaps the same.
        self._models = ThreadPoolExecutor(1, thread_name_prefix="models")

    async def draw(
        self, count: int, seed: int, given: Mapping[str, bool], component: int | None, temperature: float
    ) -> np.ndarray:
        """Latents drawn from the prior, or from one of its components."""
        prior = self.bundle.prior.at(temperature)
        if component is not None:
            prior = dataclasses.replace(prior, weights=np.eye(len(prior.weights))[component])
        latents, _ = await asyncio.to_thread(prior.sample_given, count, seed, given)
        return latents

    async def vary(self, latents: np.ndarray, count: int, seed: int, strength: float) -> np.ndarray:
        """``count`` variations of each latent."""
        return await self._with_models(self.bundle.variations.vary, latents, count, seed, strength)

    async def path(self, waypoints: np.ndarray, steps: int, seed: int) -> np.ndarray:
        """Latents on a path through all waypoints, ``steps`` per leg with both its ends."""
        return await asyncio.to_thread(interpolate, self.bundle.normals, waypoints, steps, seed)

    async def edit(
        self,
        latents: np.ndarray,
        set_: Sequence[str],
        unset: Sequence[str],
        strength: float,
        method: str,
    ) -> np.ndarray:
        """Latents with attributes set and unset."""
        known = self.bundle.attributes, self.bundle.values
        return await self._with_models(edit, *known, latents, set_, unset, strength, method)

    async def edit_at_all(self, latents: np.ndarray, set_: Sequence[str], unset: Sequence[str]) -> np.ndarray:
        """The latents edited at each of ``STRENGTHS``."""
        known = self.bundle.attributes, self.bundle.values
        return await self._with_models(edit_at_all, *known, latents, set_, unset)

    async def confidence(self, latents: np.ndarray, set_: Sequence[str], unset: Sequence[str]) -> np.ndarray:
        """The probability that each latent has attributes set and unset as asked."""
        known = self.bundle.attributes, self.bundle.values
        return await self._with_models(confidence, *known, latents, set_, unset)

    async def _with_models(self, work: Callable[..., np.ndarray], *arguments: Any) -> np.ndarray:
        return await asyncio.get_running_loop().run_in_executor(self._models, work, *arguments)

    async def encode(self, images: np.ndarray) -> np.ndarray:
        """Latents of images."""
        return await self._encode(images)

    async def decode(self, latents: np.ndarray) -> np.ndarray:
        """Images of latents."""
        return await self._decode(latents)

    def check(self) -> None:
        """Raise LbaeError when a batch of the codec has run for more than a minute."""
        longest = max(self._encode.running_s, self._decode.running_s)
        if longest > _STUCK_S:
            raise LbaeError(f"a batch of the codec has run for {longest:.0f} s")
