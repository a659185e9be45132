"""The verbs that need the codec; the rows of several requests share its batches."""

import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from lbae.core.network.codec import Codec
from lbae.errors import LbaeError
from lbae.web.backend.backend import OnBatch, Verbs
from lbae.web.backend.batching import Batcher

_STUCK_S = 60


class CodecVerbs(Verbs):
    """Encodes and decodes with a codec."""

    def __init__(self, codec: Codec, on_batch: OnBatch = lambda verb, rows, waiting: None) -> None:
        # One thread, because the codec itself uses all of the process's threads.
        thread = ThreadPoolExecutor(1, thread_name_prefix="codec")
        self._encode = Batcher(codec.encode, codec.rows, functools.partial(on_batch, "encode"), thread)
        self._decode = Batcher(codec.decode, codec.rows, functools.partial(on_batch, "decode"), thread)

    async def encode(self, images: np.ndarray) -> np.ndarray:
        """Latents of images."""
        return await self._encode(images)

    async def decode(self, latents: np.ndarray) -> np.ndarray:
        """Images of latents."""
        return await self._decode(latents)

    async def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """Images of the latents of images."""
        return await self._decode(await self._encode(images))

    async def recode(self, latents: np.ndarray) -> np.ndarray:
        """Latents of the images of latents."""
        return await self._encode(await self._decode(latents))

    def check(self) -> None:
        """Raise LbaeError when a batch of the codec has run for more than a minute."""
        longest = max(self._encode.running_s, self._decode.running_s)
        if longest > _STUCK_S:
            raise LbaeError(f"a batch of the codec has run for {longest:.0f} s")
