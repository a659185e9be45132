"""Find test images that are also training images, in Ray tasks."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from lbae.distributed.cluster.resources import cluster_cpus
from lbae.distributed.cluster.torch_env import torch_task
from lbae.io.sources.hashes import file_digests
from lbae.io.sources.source import Shard, Source, read_shard, shard_keys
from lbae.report.evaluation.streams import Stream


def start_overlap(test: Source, train: Source | None, tested: Stream) -> list[ray.ObjectRef]:
    """Start tasks that search training images, if given, for the files and the keys of the test images."""
    if train is None:
        return []
    keys = ray.put(pa.concat_arrays([shard_keys(shard) for shard in test.shards]))
    digests = ray.put(np.unique(tested.digests))
    count = min(len(train.shards), 4 * cluster_cpus())
    return [_overlap.remote(train.shards[i::count], keys, digests) for i in range(count)]


def overlap_counts(tasks: list[ray.ObjectRef], tested: Stream) -> dict[str, int]:
    """The number of test images with the bytes, and with the key, of a training image; {} without tasks."""
    if not tasks:
        return {}
    keys, digests = zip(*ray.get(tasks), strict=True)
    return {"bytes": int(np.isin(tested.digests, np.concatenate(digests)).sum()), "keys": sum(keys)}


@torch_task
def _overlap(shards: Sequence[Shard], keys: pa.Array, digests: np.ndarray) -> tuple[int, np.ndarray]:
    """The number of training images whose key is in ``keys``, and which of ``digests`` occur among them."""
    same_key = sum(pc.sum(pc.is_in(shard_keys(shard), value_set=keys)).as_py() for shard in shards)
    same_bytes = [np.intersect1d(file_digests(read_shard(shard)), digests) for shard in shards]
    return same_key, np.unique(np.concatenate(same_bytes))
