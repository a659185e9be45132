"""The verb that needs the normals. Without torch: the process that runs it alone stays small."""

import asyncio

import numpy as np

from lbae.core.latents.interpolation import interpolate
from lbae.core.latents.normals import Normals
from lbae.web.backend.backend import Verbs


class PathVerbs(Verbs):
    """Interpolates latents."""

    def __init__(self, normals: Normals) -> None:
        self._normals = normals

    async def path(self, waypoints: np.ndarray, steps: int, seed: int) -> np.ndarray:
        """Latents on a path through all waypoints, ``steps`` per leg with both its ends."""
        return await asyncio.to_thread(interpolate, self._normals, waypoints, steps, seed)
