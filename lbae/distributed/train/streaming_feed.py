"""The batches of one worker of a streaming run, from its shares of Ray Data's datasets."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch
from ray.data import DataIterator
from torch import Tensor

from lbae.distributed.train.image_windows import Stream, WindowFiller
from lbae.distributed.train.streamed_images import PIXELS

_WINDOW_BATCHES, _WINDOW_IMAGES = 8, 4096  # a window has at most the larger of the two, in whole batches
_BLOCKS_AHEAD = 2  # blocks of at most 128 MiB, which Ray Data fetches to the worker's node beforehand


class StreamingFeed:
    """The batches of one worker, shuffled in windows of several batches.

    Args:
        parts: The worker's share of each part of an epoch, see
            :func:`lbae.distributed.train.streamed_images.epoch_parts`.
        part_steps: Steps of each part, the same for all workers.
        shape: Height, width and channels of the images.
        batch: Images per batch.
        seed: Seed of the order in a window.
        epochs: Epochs of the run; the feed starts no more.
        device: Device of the batches.

    Every image comes once per epoch, except the last ones of a part that fill no batch. In place of images
    that cannot be decoded, others of their window are repeated. ``bad`` counts them, from the start or the
    resumption of the current epoch to its end.

    A thread fills the next window while batches leave the current one. It goes on beyond the end of a part
    and of an epoch, because Ray Data needs seconds to start the next. It takes the memory of two windows,
    pinned if the device is a GPU: of 4,096 images each, or eight batches if these are more.
    """

    def __init__(
        self,
        parts: Sequence[DataIterator],
        part_steps: Sequence[int],
        shape: tuple[int, ...],
        *,
        batch: int,
        seed: int,
        epochs: int,
        device: torch.device,
    ) -> None:
        self.batch, self.steps = batch, sum(part_steps)
        self.stops: Sequence[int] = tuple(itertools.accumulate(part_steps[:-1]))
        self.bad = 0
        self._parts, self._shape, self._device = parts, shape, device
        self._sizes = [_window_sizes(steps, batch) for steps in part_steps]
        self._seed, self._epochs = seed, epochs
        self._filler: WindowFiller | None = None
        self._next = (0, 0)  # epoch and part that the filler comes to next

    def __call__(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """Yield the uint8 batches (K, H, W, C) of an epoch after the first ``start``, which is 0 or a stop.

        On a CPU a batch may change when the next one is asked for. An error of Ray Data or of one of its
        tasks is raised here.
        """
        part, done = (0, *self.stops).index(start), False
        filler = self._filler_at(epoch, part)
        self.bad = 0
        try:
            for sizes in self._sizes[part:]:
                for images in sizes:
                    yield from filler.batches(images, self.batch)
                self.bad += filler.nulls()
            done = True
        finally:
            self._filler, self._next = filler, (epoch + 1, 0)
            if not done or epoch + 1 == self._epochs:
                filler.stop()
                self._filler = None

    def _filler_at(self, epoch: int, part: int) -> WindowFiller:
        """The filler that comes to this part next: the running one, or a new one."""
        if self._filler is not None and self._next == (epoch, part):
            return self._filler
        if self._filler is not None:
            self._filler.stop()
        most = max(max(sizes) for sizes in self._sizes)
        return WindowFiller(self._streams(epoch, part), most, self._shape, self._device)

    def _streams(self, epoch: int, part: int) -> Iterator[Stream]:
        """The streams of all parts from this one on, to the end of the last epoch."""
        places = itertools.product(range(epoch, self._epochs), range(len(self._parts)))
        for place in itertools.islice(places, part, None):
            yield Stream(
                arrays=_arrays(self._parts[place[1]]),
                sizes=self._sizes[place[1]],
                rng=np.random.default_rng((self._seed, *place)),
            )


def _window_sizes(steps: int, batch: int) -> list[int]:
    """Images of each window of a part: whole batches, and about as many in each window."""
    most = max(_WINDOW_BATCHES, _WINDOW_IMAGES // batch)
    return [batch * len(some) for some in np.array_split(np.arange(steps), -(-steps // most))]


def _arrays(rows: DataIterator) -> Iterator[pa.FixedSizeBinaryArray]:
    # Blocks as they are: to form tables of a given number of rows, Ray Data would copy them.
    for block in rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=_BLOCKS_AHEAD):
        yield from block[PIXELS].chunks
