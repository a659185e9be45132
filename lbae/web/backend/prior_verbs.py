"""The verbs that need the prior: samples and variations."""

import asyncio
import dataclasses
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from lbae.core.latents.variations import Variations
from lbae.core.prior.prior import Prior
from lbae.web.backend.backend import Verbs


class PriorVerbs(Verbs):
    """Draws latents from a prior, and varies latents under it."""

    def __init__(self, prior: Prior) -> None:
        self._prior, self._variations = prior, Variations(prior)
        # One thread for variations: they compute matrices of N x N, two at once perhaps the same.
        self._models = ThreadPoolExecutor(1, thread_name_prefix="variations")

    async def draw(
        self, count: int, seed: int, given: Mapping[str, bool], component: int | None, temperature: float
    ) -> np.ndarray:
        """Latents drawn from the prior, or from one of its components."""
        prior = self._prior.at(temperature)
        if component is not None:
            prior = dataclasses.replace(prior, weights=np.eye(len(prior.weights))[component])
        latents, _ = await asyncio.to_thread(prior.sample_given, count, seed, given)
        return latents

    async def vary(self, latents: np.ndarray, count: int, seed: int, strength: float) -> np.ndarray:
        """``count`` variations of each latent."""
        return await asyncio.get_running_loop().run_in_executor(
            self._models, self._variations.vary, latents, count, seed, strength
        )
