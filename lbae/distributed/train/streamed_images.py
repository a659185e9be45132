"""Training images that do not fit in memory, as Ray Data datasets that decode them anew in every epoch."""

import math
import pickle
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import ray.data
from jaxtyping import UInt8
from ray.data import RandomSeedConfig

from lbae.config import Config
from lbae.distributed.cluster.tasks import configure_ray_data
from lbae.errors import working_on
from lbae.io.sources.decode import decode_rows
from lbae.io.sources.hashes import held_out
from lbae.io.sources.source import Shard, Source, read_batches

PIXELS = "pixels"
"""The column of the datasets: uint8 (H, W, C) as bytes; null where an image could not be decoded."""
_DECODE_CPUS = 0.5  # two tasks per CPU, because a task also waits for storage
# A run can be resumed between two parts. A part leaves out the images that fill no batch, and at its end the
# tasks that decode run out of shards, so it has many of both.
_MOST_PARTS, _PART_STEPS, _PART_SHARDS = 8, 64, 64


def epoch_parts(source: Source, config: Config) -> list[tuple[Shard, ...]]:
    """The parts of an epoch, which are read one after the other: one, or up to eight of a large source.

    The shards are cut in an order drawn from the seed. A shard is in the same part in every epoch. The
    number of workers has no influence, because it can change between two starts of a run.
    """
    order = np.random.default_rng(config.train.seed).permutation(len(source.shards))
    least = _PART_STEPS * config.train.batch_size
    for count in range(_MOST_PARTS, 0, -1):
        parts = [tuple(source.shards[i] for i in some) for some in np.array_split(order, count)]
        if all(len(part) >= _PART_SHARDS and sum(shard.rows for shard in part) >= least for part in parts):
            break
    return parts


def part_name(number: int) -> str:
    """The name under which Ray Train holds the dataset of a part."""
    return f"train-{number}"


def streamed_images(source: Source, config: Config) -> dict[str, ray.data.Dataset]:
    """The datasets of all parts by name: images that are not held out, one per row.

    Every epoch reads the shards of a part in another order.
    """
    configure_ray_data()
    return {
        part_name(number): _dataset(part, config) for number, part in enumerate(epoch_parts(source, config))
    }


def _dataset(shards: tuple[Shard, ...], config: Config) -> ray.data.Dataset:
    def decode(batch: dict[str, np.ndarray]) -> Iterator[pa.Table]:
        for pickled in batch["shard"]:
            shard = pickle.loads(pickled)
            with working_on(f"decoding {shard}"):
                for table in read_batches(shard):
                    trained = table.filter(pa.array(~held_out(table["key"])))
                    decoded = decode_rows(trained, config.model)
                    yield pixel_table(decoded.images, len(decoded.quarantine))

    rows = [{"shard": pickle.dumps(shard)} for shard in shards]
    order = RandomSeedConfig(seed=config.train.seed, reseed_after_execution=True)
    return (
        ray.data.from_items(rows, override_num_blocks=len(rows))
        .randomize_block_order(seed=order)
        .map_batches(decode, batch_size=1, num_cpus=_DECODE_CPUS)
    )


def pixel_table(images: UInt8[np.ndarray, "K H W C"], bad: int) -> pa.Table:
    """A row per image, followed by ``bad`` nulls. The images are not copied."""
    kind = pa.binary(math.prod(images.shape[1:]))
    pixels = pa.FixedSizeBinaryArray.from_buffers(kind, len(images), [None, pa.py_buffer(images)])
    return pa.table({PIXELS: pa.chunked_array([pixels, pa.nulls(bad, kind)])})
