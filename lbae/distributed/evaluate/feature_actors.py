"""Extract the features of an evaluation on Ray: actors compute blocks of streams, the driver adds them up."""

from functools import partial

import numpy as np
import ray
import torch

from lbae.core.network.codec import best_precision
from lbae.distributed.cluster.actor_pool import run_on_actors, torch_device
from lbae.distributed.cluster.torch_env import torch_task
from lbae.io.sources.source import Source
from lbae.report.evaluation.feature_extraction import BLOCK_ROWS, FeatureExtractor
from lbae.report.evaluation.streams import RECONSTRUCTIONS, TEST, TRAIN, FeatureBlock, Stream
from lbae.report.progress import ProgressLine

# A task of an actor: computes blocks with the actor's extractor.
Task = partial[list[FeatureBlock]]


def start_precision() -> ray.ObjectRef:
    """Start a task that returns the precision of classifiers on the device of the actors.

    Later tasks reuse its process.
    """
    device, share = torch_device()
    ref: ray.ObjectRef = torch_task(best_precision).options(num_gpus=share).remote(torch.device(device))
    return ref


def extract_features(
    extractor: FeatureExtractor, test: Source, references: dict[str, Source]
) -> dict[str, Stream]:
    """The streams of reconstructions, samples, and the real images in ``references``."""
    tasks: list[Task] = [
        partial(FeatureExtractor.test_block, shard=shard, index=i, reference=TEST in references)
        for i, shard in enumerate(test.shards)
    ]
    if train := references.get(TRAIN):
        starts = np.cumsum([0, *(shard.rows for shard in train.shards)])
        tasks += [
            partial(FeatureExtractor.training_block, shard=shard, index=i, start=int(starts[i]))
            for i, shard in enumerate(train.shards)
        ]
    tasks += [
        partial(FeatureExtractor.sample_block, name=name, index=i)
        for name in extractor.priors
        for i in range(-(-extractor.samples // BLOCK_ROWS))
    ]
    rows = dict.fromkeys([RECONSTRUCTIONS, *extractor.priors], test.rows)
    rows |= {role: source.rows for role, source in references.items()}
    dim = extractor.network.num_features
    streams = {name: Stream(dim, count) for name, count in rows.items()}
    with ProgressLine("features", len(tasks), "blocks") as line:
        for blocks in run_on_actors(tasks, _BlockMaker, _doing, extractor=ray.put(extractor)):
            for block in blocks:
                streams[block.stream].add(block)
            line.update(line.done + 1)
    return streams


def _doing(task: Task) -> str:
    """Describe a task for error messages, such as ``sample_block name=mixture, index=3``."""
    return f"{task.func.__name__} {', '.join(f'{name}={value}' for name, value in task.keywords.items())}"


class _BlockMaker:
    """Runs tasks with the extractor that it holds."""

    def __init__(self, *, extractor: ray.ObjectRef, device: str) -> None:
        loaded: FeatureExtractor = ray.get(extractor)
        self.extractor = loaded.to(device)

    def __call__(self, task: Task) -> list[FeatureBlock]:
        return task(self.extractor)
