"""Looking at images for an evaluation: a pool of actors, one row of a Ray data set a block of a stream."""

from typing import Any

import numpy as np
import ray
import ray.data
import torch

from lbae.core.network.codec import best_precision
from lbae.distributed.cluster.network_env import RUNS_A_NETWORK
from lbae.distributed.cluster.resources import (
    actor_pool,
    cluster_gpus,
    network_cpus,
    network_device,
    node_cpus,
)
from lbae.distributed.cluster.tasks import answered, outcomes, over
from lbae.io.sources.source import Shard, Source, spread
from lbae.report.evaluation.looker import BLOCK_ROWS, Looker
from lbae.report.evaluation.streams import MIDPOINTS, RECONSTRUCTIONS, TEST, TRAIN, Seen, Stream
from lbae.report.features.feature_sums import drawn_rows
from lbae.report.progress import ProgressLine

_REFERENCE_ROWS = 100_000


def looked_at(role: str, source: Source) -> tuple[Shard, ...]:
    """The shards of real images that are looked at: all of the test images, and about 100,000 training
    images.
    """
    return spread(source.shards, _REFERENCE_ROWS) if role == TRAIN else source.shards


def hardware() -> dict[str, str]:
    """Kind of device on which actors look, and the precision at which classifiers run there."""
    device, share = network_device()
    ask = ray.remote(num_cpus=1, num_gpus=share, runtime_env=RUNS_A_NETWORK)(best_precision)
    return {"device": device, "classifier_precision": ray.get(ask.remote(torch.device(device)))}


def look(looker: Looker, test: Source, wanted: dict[str, Source]) -> dict[str, Stream]:
    """What is seen: of real images only those ``wanted``, of what the bundle makes everything."""
    tasks: list[tuple[Any, ...]] = [
        ("at_test", shard, i, TEST in wanted) for i, shard in enumerate(test.shards)
    ]
    rows = dict.fromkeys([RECONSTRUCTIONS, *looker.priors], test.rows)
    for role, source in wanted.items():
        shards = looked_at(role, source)
        starts = np.cumsum([0, *(shard.rows for shard in shards)])
        rows[role] = int(starts[-1])
        if role == TRAIN:
            tasks += [("at_training", shard, i, int(starts[i])) for i, shard in enumerate(shards)]
    tasks += [
        ("at_samples", name, i) for name in looker.priors for i in range(-(-looker.samples // BLOCK_ROWS))
    ]
    streams = {name: Stream(looker.extractor.num_features, count) for name, count in rows.items()}
    handle = ray.put(looker)
    with ProgressLine("look", len(tasks), "blocks") as line:
        for blocks in outcomes(_pool(handle, tasks)):
            for block in blocks:
                streams[block.stream].add(block)
            line.update(line.done + 1)
    middles = _midpoints(handle, streams[RECONSTRUCTIONS].latents, looker.extractor.num_features)
    return {RECONSTRUCTIONS: streams.pop(RECONSTRUCTIONS), MIDPOINTS: middles, **streams}


def _pool(looker: ray.ObjectRef, tasks: list[tuple[Any, ...]]) -> ray.data.Dataset:
    cpus, gpus = network_cpus(), cluster_gpus()
    actors, (device, share) = actor_pool(cpus, gpus)[0], network_device()
    threads = max(1, min(cpus // actors, node_cpus(min(1, gpus))))
    return over(
        tasks,
        _Looks,
        fn_constructor_kwargs={"looker": looker, "device": device, "threads": threads},
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(tasks))),
        num_cpus=1,
        num_gpus=share or None,
        runtime_env=RUNS_A_NETWORK,
    )


class _Looks:
    """Holds what it takes to look, and looks at one block."""

    def __init__(self, looker: ray.ObjectRef, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        held: Looker = ray.get(looker)
        self.looker = held.to(device)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return answered(row, self._look, lambda task: f"looking at {task[0]} {task[1]}")

    def _look(self, task: tuple[Any, ...]) -> list[Seen]:
        look, *arguments = task
        seen: list[Seen] = getattr(self.looker, look)(*arguments)
        return seen


def _midpoints(looker: ray.ObjectRef, packed: np.ndarray, dim: int) -> Stream:
    """Middles of paths between test images in a random order: the same pairs however shards are cut or images
    sorted.
    """
    stream, (device, share) = Stream(dim, len(packed)), network_device()
    mixed = packed[drawn_rows(len(packed), len(packed))]
    task = _middles.options(num_gpus=share)
    for handle in [
        task.remote(looker, device, mixed[start : start + BLOCK_ROWS], start // BLOCK_ROWS)
        for start in range(0, len(mixed), BLOCK_ROWS)
    ]:
        stream.add(ray.get(handle))
    return stream


@ray.remote(num_cpus=1, runtime_env=RUNS_A_NETWORK)
def _middles(looker: Looker, device: str, packed: np.ndarray, index: int) -> Seen:
    return looker.to(device).at_midpoints(packed, index)
