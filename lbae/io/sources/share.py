"""One worker's share of a source, decoded on threads: its training and held-out images."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from lbae.config import ModelConfig
from lbae.io.sources.dealing import deal
from lbae.io.sources.decode import Decoded, decode_rows
from lbae.io.sources.hashes import HELD_OUT_OF, held_out
from lbae.io.sources.source import Shard, Source, read_batches, shard_keys, spread


@dataclass(frozen=True, kw_only=True)
class Share:
    """Images of one worker, and how many of its rows could not be decoded."""

    trained: UInt8[np.ndarray, "K H W C"]
    held_out: UInt8[np.ndarray, "L H W C"]
    bad: int


def decode_share(source: Source, config: ModelConfig, worker: int, workers: int, threads: int) -> Share:
    """All images of one worker, in the order of the source."""
    return _decoded(deal(source.shards, worker, workers), config, threads)


def decode_held_out(
    source: Source, config: ModelConfig, worker: int, workers: int, most: int, threads: int
) -> Share:
    """At most ``most`` held-out images of one worker, from shards that are spread over the source.

    They are spread because sources are often sorted.
    """
    shards, left = [], most
    for shard in deal(spread(source.shards, HELD_OUT_OF * most * workers), worker, workers):
        mine = held_out(shard_keys(shard)) & shard.wanted
        mine &= np.cumsum(mine) <= left
        if mine.any():
            shards.append(shard.reading(mine))
            left -= int(mine.sum())
    return _decoded(shards, config, threads)


def _decoded(shards: Iterable[Shard], config: ModelConfig, threads: int) -> Share:
    empty = np.empty((0, *config.image_shape), dtype=np.uint8)
    trained, unseen, bad = [empty], [empty], 0
    for decoded in _ahead(shards, config, threads):
        mask = held_out(decoded.rows["key"])
        trained.append(decoded.images[~mask])
        unseen.append(decoded.images[mask])
        bad += len(decoded.quarantine)
    return Share(trained=np.concatenate(trained), held_out=np.concatenate(unseen), bad=bad)


def _ahead(shards: Iterable[Shard], config: ModelConfig, threads: int) -> Iterator[Decoded]:
    """Decoded batches in order; threads decode the next ones while a batch is read."""
    waiting: deque[Future[Decoded]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for shard in shards:
            for table in read_batches(shard):
                waiting.append(pool.submit(decode_rows, table, config))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
        for future in waiting:
            yield future.result()
