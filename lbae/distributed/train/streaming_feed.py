"""Training images that do not fit in memory: Ray Data decodes them every epoch, workers shuffle them."""

import itertools
import math
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import ray.data
import torch
from ray.data import DataIterator, RandomSeedConfig
from torch import Tensor

from lbae.config import Config, ModelConfig
from lbae.core.network.training import epoch_seed
from lbae.distributed.cluster.tasks import configure_ray_data
from lbae.errors import LbaeError, working_on
from lbae.io.sources import source as image_source
from lbae.io.sources.decode import decode_rows

_PIXELS = "pixels"  # uint8 (H, W, C) as bytes; null where an image could not be decoded
_WINDOW_BATCHES, _WINDOW_ROWS = 8, 4096
_DECODE_CPUS = 0.5


def streamed_images(source: image_source.Source, config: Config) -> ray.data.Dataset:
    """A dataset of the images that are not held out, one per row, with shards in a new order every epoch."""
    configure_ray_data()
    size = math.prod(config.model.image_shape)

    def decode(batch: dict[str, np.ndarray]) -> Iterator[pa.Table]:
        for pickled in batch["shard"]:
            shard = pickle.loads(pickled)
            with working_on(f"decoding {shard}"):
                for table in image_source.read_batches(shard):
                    decoded = decode_rows(
                        table.filter(pa.array(~image_source.held_out(table["key"]))), config.model
                    )
                    rows = [image.tobytes() for image in decoded.images] + [None] * len(decoded.quarantine)
                    yield pa.table({_PIXELS: pa.array(rows, pa.binary(size))})

    shards = [{"shard": pickle.dumps(shard)} for shard in source.shards]
    order = RandomSeedConfig(seed=config.train.seed, reseed_after_execution=True)
    return (
        ray.data.from_items(shards, override_num_blocks=len(shards))
        .randomize_block_order(seed=order)
        .map_batches(decode, batch_size=1, num_cpus=_DECODE_CPUS)
    )


class StreamingFeed:
    """The batches of one worker's share of :func:`streamed_images`, shuffled in windows of several batches.

    Every image comes once per epoch, except the last ones that fill no batch. All workers must take the same
    number of steps. If images cannot be decoded and fewer than ``steps`` batches arrive, the feed repeats
    images of the last large window. ``bad`` counts the undecodable images of the current epoch.

    Ray Data needs seconds to start an epoch, so it starts the next one while the worker validates.
    """

    def __init__(
        self, rows: DataIterator, model: ModelConfig, *, batch: int, steps: int, seed: int, epochs: int
    ) -> None:
        self._rows, self._model, self._seed, self._epochs = rows, model, seed, epochs
        self.batch, self.steps = batch, steps
        self.stops: Sequence[int] = ()
        self._thread = ThreadPoolExecutor(1)
        self._tables: Iterator[pa.Table] | None = None
        self.bad = 0

    def __call__(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """The batches of one epoch; ``start`` is 0, because the feed has no stops."""
        generator = torch.Generator().manual_seed(epoch_seed(self._seed, epoch))
        given = self.bad = 0
        recent = torch.empty(0)
        for window in self._windows(generator):
            batches = min(len(window) // self.batch, self.steps - given)
            # Windows beyond the last step are consumed too, so that Ray Data can start the next epoch.
            if batches:
                yield from torch.split(window[: batches * self.batch], self.batch)
            given += batches
            # The last window may hold a single image; copies of it would spoil BatchNorm's statistics.
            if len(window) > len(recent) // 2:
                recent = window
        if not len(recent):
            raise LbaeError(
                "a worker's share of the stream holds no image that can be decoded; see --max-bad-fraction"
            )
        while given < self.steps:
            repeated = torch.randint(len(recent), (self.batch,), generator=generator)
            yield recent[repeated]
            given += 1
        self._tables = self._started() if epoch + 1 < self._epochs else None

    def _started(self) -> Iterator[pa.Table]:
        """Start an epoch in Ray Data, and return its tables."""
        tables = iter(
            self._rows.iter_batches(batch_format="pyarrow", batch_size=_WINDOW_ROWS, prefetch_batches=1)
        )
        first = self._thread.submit(lambda: list(itertools.islice(tables, 1)))
        return itertools.chain.from_iterable(part() for part in (first.result, lambda: tables))

    def _windows(self, generator: torch.Generator) -> Iterator[Tensor]:
        """Shuffled windows; images that fill no batch move to the next window."""
        rows = max(_WINDOW_BATCHES * self.batch, _WINDOW_ROWS)
        held = torch.empty((0, *self._model.image_shape), dtype=torch.uint8)
        parts = [held]
        for table in self._tables or self._started():
            parts.append(self._pixels(table))
            if sum(map(len, parts)) >= rows:
                held = _shuffled(torch.cat(parts), generator)
                yield held
                parts = [held[len(held) - len(held) % self.batch :]]
        if sum(map(len, parts)):
            yield _shuffled(torch.cat(parts), generator)

    def _pixels(self, table: pa.Table) -> Tensor:
        column = table[_PIXELS]
        self.bad += column.null_count
        data = bytearray().join(column.drop_null().to_pylist())
        if not data:
            return torch.empty((0, *self._model.image_shape), dtype=torch.uint8)
        return torch.frombuffer(data, dtype=torch.uint8).reshape(-1, *self._model.image_shape)


def _shuffled(images: Tensor, generator: torch.Generator) -> Tensor:
    return images[torch.randperm(len(images), generator=generator)]
