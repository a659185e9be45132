"""Looking at images for an evaluation: a pool of actors, one row of a Ray data set a block of a stream."""

from typing import Any

import ray
import ray.data
import torch

from lbae.distributed.session import RUNS_A_NETWORK, actor_pool, cluster_cpus, cluster_gpus
from lbae.distributed.tasks import answered, as_rows, outcomes
from lbae.io.source import Source, spread
from lbae.report.looks import BLOCK_ROWS, Looker
from lbae.report.progress import ProgressLine
from lbae.report.streams import MIDPOINTS, RECONSTRUCTIONS, TEST, TRAIN, Seen, Stream

_REFERENCE_ROWS = 100_000


def look(looker: Looker, test: Source, wanted: dict[str, Source]) -> dict[str, Stream]:
    """What the actors see: of real images only those ``wanted``, of what the bundle makes everything."""
    tasks: list[tuple[Any, ...]] = [("at_test", shard, i, TEST in wanted) for i, shard in enumerate(test.shards)]
    if TRAIN in wanted:
        tasks += [("at_training", shard, i) for i, shard in enumerate(spread(wanted[TRAIN].shards, _REFERENCE_ROWS))]
    tasks += [("at_samples", name, i) for name in looker.priors for i in range(-(-looker.samples // BLOCK_ROWS))]
    names = [RECONSTRUCTIONS, MIDPOINTS, *looker.priors, *wanted]
    streams = {name: Stream(looker.extractor.num_features) for name in names}
    actors, gpus = actor_pool(cluster_cpus(), cluster_gpus())
    seen = as_rows(tasks).map(
        _Looks,
        fn_constructor_kwargs={
            "looker": ray.put(looker),
            "device": "cuda" if gpus else "cpu",
            "threads": max(1, cluster_cpus() // actors),
        },
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(tasks))),
        num_cpus=1,
        num_gpus=gpus or None,
        runtime_env=RUNS_A_NETWORK,
    )
    with ProgressLine("look", len(tasks), "blocks") as line:
        for blocks in outcomes(seen):
            for block in blocks:
                streams[block.stream].add(block)
            line.update(line.done + 1)
    return streams


class _Looks:
    """Holds what it takes to look, and looks at one block."""

    def __init__(self, looker: ray.ObjectRef, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        held: Looker = ray.get(looker)
        self.looker = held.to(device)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return answered(row, self._look)

    def _look(self, task: tuple[Any, ...]) -> list[Seen]:
        look, *arguments = task
        seen: list[Seen] = getattr(self.looker, look)(*arguments)
        return seen
