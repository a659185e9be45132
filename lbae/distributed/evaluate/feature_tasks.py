"""Extract the features of an evaluation on Ray: tasks compute blocks of streams, the driver adds them up."""

from collections.abc import Sequence

import numpy as np
import ray

from lbae.distributed.evaluate.extractor_tasks import ExtractorTasks, in_completion_order
from lbae.io.sources.source import Source
from lbae.report.evaluation.feature_extraction import BLOCK_ROWS, FeatureExtractor
from lbae.report.evaluation.streams import RECONSTRUCTIONS, TEST, TRAIN, Stream
from lbae.report.progress import ProgressLine


def start_samples(tasks: ExtractorTasks, extractor: FeatureExtractor) -> list[ray.ObjectRef]:
    """Start one task per block of samples."""
    return [
        tasks.start(FeatureExtractor.sample_block, name=name, index=i)
        for name in extractor.priors
        for i in range(-(-extractor.samples // BLOCK_ROWS))
    ]


def extract_features(
    tasks: ExtractorTasks,
    extractor: FeatureExtractor,
    samples: Sequence[ray.ObjectRef],
    test: Source,
    references: dict[str, Source],
) -> dict[str, Stream]:
    """The streams of samples, reconstructions, and the real images in ``references``."""
    blocks = [*samples]
    for i, shard in enumerate(test.shards):
        reference = TEST in references
        blocks.append(tasks.start(FeatureExtractor.test_block, shard=shard, index=i, reference=reference))
    if train := references.get(TRAIN):
        starts = np.cumsum([0, *(shard.rows for shard in train.shards)])
        for i, shard in enumerate(train.shards):
            start = int(starts[i])
            blocks.append(tasks.start(FeatureExtractor.training_block, shard=shard, index=i, start=start))
    rows = dict.fromkeys([RECONSTRUCTIONS, *extractor.priors], test.rows)
    rows |= {role: source.rows for role, source in references.items()}
    dim = extractor.network.num_features
    streams = {name: Stream(dim, count) for name, count in rows.items()}
    with ProgressLine("features", len(blocks), "blocks") as line:
        for made in in_completion_order(blocks):
            for block in made:
                streams[block.stream].add(block)
            line.update(line.done + 1)
    return streams
