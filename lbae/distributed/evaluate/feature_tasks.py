"""Extract the features of an evaluation on Ray: tasks compute blocks of streams, the driver adds them up."""

from functools import partial

import numpy as np
import ray
import torch

from lbae.core.network.codec import best_precision
from lbae.distributed.cluster.actor_pool import torch_device
from lbae.distributed.cluster.torch_env import torch_task
from lbae.distributed.evaluate.extractor_tasks import ExtractorTasks
from lbae.io.sources.source import Source
from lbae.report.evaluation.feature_extraction import BLOCK_ROWS, FeatureExtractor
from lbae.report.evaluation.streams import RECONSTRUCTIONS, TEST, TRAIN, FeatureBlock, Stream
from lbae.report.progress import ProgressLine

Block = partial[list[FeatureBlock]]


def start_precision() -> ray.ObjectRef:
    """Start a task that returns the precision of classifiers on the device of the tasks.

    Later tasks reuse its process.
    """
    device, share = torch_device()
    ref: ray.ObjectRef = torch_task(best_precision).options(num_gpus=share).remote(torch.device(device))
    return ref


def extract_features(
    tasks: ExtractorTasks, extractor: FeatureExtractor, test: Source, references: dict[str, Source]
) -> dict[str, Stream]:
    """The streams of reconstructions, samples, and the real images in ``references``."""
    blocks: list[Block] = [
        partial(FeatureExtractor.test_block, shard=shard, index=i, reference=TEST in references)
        for i, shard in enumerate(test.shards)
    ]
    if train := references.get(TRAIN):
        starts = np.cumsum([0, *(shard.rows for shard in train.shards)])
        blocks += [
            partial(FeatureExtractor.training_block, shard=shard, index=i, start=int(starts[i]))
            for i, shard in enumerate(train.shards)
        ]
    blocks += [
        partial(FeatureExtractor.sample_block, name=name, index=i)
        for name in extractor.priors
        for i in range(-(-extractor.samples // BLOCK_ROWS))
    ]
    rows = dict.fromkeys([RECONSTRUCTIONS, *extractor.priors], test.rows)
    rows |= {role: source.rows for role, source in references.items()}
    dim = extractor.network.num_features
    streams = {name: Stream(dim, count) for name, count in rows.items()}
    with ProgressLine("features", len(blocks), "blocks") as line:
        for made in tasks.start_each(blocks):
            for block in made:
                streams[block.stream].add(block)
            line.update(line.done + 1)
    return streams
