"""Decoding a training worker's share of the images once, before the first epoch."""

from collections.abc import Sequence

import numpy as np
import ray.train
import torch
from torch import Tensor

from lbae.config import ModelConfig
from lbae.distributed.cluster.resources import own_cpus
from lbae.distributed.train.all_workers import totals
from lbae.errors import working_on
from lbae.io.sources.decode import check_bad_share
from lbae.io.sources.hashes import held_out
from lbae.io.sources.share import Share, decode_held_out, decode_share
from lbae.io.sources.source import Shard, Source, shard_keys


def resident_share(source: Source, model: ModelConfig, max_bad_fraction: float) -> tuple[Share, int]:
    """This worker's share of a source, and all workers' number of undecodable images.

    Raises:
        LbaeError: The share of undecodable images exceeds ``max_bad_fraction``.
    """
    with working_on(f"decoding images of {source.uri}"):
        share = decode_share(source, model, *_place(), _threads())
    (bad,) = totals(share.bad)
    check_bad_share(source.uri, bad, source.rows, max_bad_fraction)
    return share, bad


def test_images(source: Source | None, model: ModelConfig, max_bad_fraction: float) -> Tensor | None:
    """This worker's share of the test images; None without test data."""
    if source is None:
        return None
    share, _ = resident_share(source, model, max_bad_fraction)
    return torch.from_numpy(np.concatenate([share.trained, share.held_out]))


def held_out_share(source: Source, model: ModelConfig, most: int) -> Share:
    """At most ``most`` held-out images over all workers, from shards all over the source."""
    worker, workers = _place()
    with working_on(f"decoding held-out images of {source.uri}"):
        return decode_held_out(source, model, worker, workers, most // workers, _threads())


def count_trained(parts: Sequence[Sequence[Shard]]) -> list[int]:
    """For each part of a source, its rows that are not held out; every worker counts its share of them."""
    worker, workers = _place()
    return totals(
        *(sum(int((~held_out(shard_keys(shard))).sum()) for shard in part[worker::workers]) for part in parts)
    )


def _place() -> tuple[int, int]:
    context = ray.train.get_context()
    return context.get_world_rank(), context.get_world_size()


def _threads() -> int:
    """The CPUs of the node, shared by its workers: nothing else of this run computes before training."""
    return max(1, own_cpus() // ray.train.get_context().get_local_world_size())
