"""The verbs that need the attributes and the models of their values: edits, and how sure they are."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from lbae.core.latents.editing import confidence, edit, move_to_given
from lbae.core.latents.guided_strength import edit_at_all
from lbae.core.latents.value_models import ValueModels
from lbae.core.moments.attribute_statistics import AttributeStatistics
from lbae.web.backend.backend import Verbs


class EditVerbs(Verbs):
    """Sets and unsets attributes of latents."""

    def __init__(self, attributes: AttributeStatistics, values: ValueModels | None) -> None:
        self._known = attributes, values
        # One thread for edits: they compute matrices of N x N, two at once perhaps the same.
        self._models = ThreadPoolExecutor(1, thread_name_prefix="edits")

    async def edit(
        self,
        latents: np.ndarray,
        set_: Sequence[str],
        unset: Sequence[str],
        strength: float,
        method: str,
    ) -> np.ndarray:
        """Latents with attributes set and unset."""
        return await self._with_models(edit, latents, set_, unset, strength, method)

    async def move_to_given(self, latents: np.ndarray, given: Mapping[str, bool]) -> np.ndarray:
        """Drawn latents, edited so that their images show the attributes that they were drawn with."""
        return await self._with_models(move_to_given, latents, given)

    async def edit_at_all(self, latents: np.ndarray, set_: Sequence[str], unset: Sequence[str]) -> np.ndarray:
        """The latents edited at each of ``STRENGTHS``."""
        return await self._with_models(edit_at_all, latents, set_, unset)

    async def confidence(self, latents: np.ndarray, set_: Sequence[str], unset: Sequence[str]) -> np.ndarray:
        """The probability that each latent has attributes set and unset as asked."""
        return await self._with_models(confidence, latents, set_, unset)

    async def _with_models(self, work: Callable[..., np.ndarray], *arguments: Any) -> np.ndarray:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._models, work, *self._known, *arguments)
