"""Test images that are among the training images too, found by Ray tasks."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from lbae.distributed.cluster.resources import cluster_cpus
from lbae.distributed.cluster.torch_env import torch_task
from lbae.io.sources.source import Shard, Source, file_digests, read_shard, shard_keys
from lbae.report.evaluation.streams import Stream


def start_overlap(test: Source, train: Source | None, tested: Stream) -> list[ray.ObjectRef]:
    """Tasks that search the training images, if given, for the files and the keys of test images."""
    if train is None:
        return []
    keys = ray.put(pa.concat_arrays([shard_keys(shard) for shard in test.shards]))
    digests = ray.put(np.unique(tested.digests))
    count = min(len(train.shards), 4 * cluster_cpus())
    return [_overlap.remote(train.shards[i::count], keys, digests) for i in range(count)]


def overlap_counts(tasks: list[ray.ObjectRef], tested: Stream) -> dict[str, int]:
    """The number of test images whose bytes, and whose keys, are a training image's; empty for no tasks."""
    if not tasks:
        return {}
    keys, digests = zip(*ray.get(tasks), strict=True)
    return {"bytes": int(np.isin(tested.digests, np.concatenate(digests)).sum()), "keys": sum(keys)}


@torch_task
def _overlap(shards: Sequence[Shard], keys: pa.Array, digests: np.ndarray) -> tuple[int, np.ndarray]:
    """How many of the keys are among the training images, and the digests that are."""
    same_key = sum(pc.sum(pc.is_in(shard_keys(shard), value_set=keys)).as_py() for shard in shards)
    same_bytes = [np.intersect1d(file_digests(read_shard(shard)), digests) for shard in shards]
    return same_key, np.unique(np.concatenate(same_bytes))
