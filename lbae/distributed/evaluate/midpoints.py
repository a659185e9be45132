"""The midpoints of paths between test images, as Ray tasks that run beside the comparisons."""

import numpy as np
import ray
from jaxtyping import UInt8

from lbae.distributed.evaluate.extractor_tasks import ExtractorTasks
from lbae.report.evaluation.feature_extraction import BLOCK_ROWS, FeatureExtractor
from lbae.report.evaluation.streams import Stream
from lbae.report.features.feature_sums import drawn_rows


def start_midpoints(tasks: ExtractorTasks, packed: UInt8[np.ndarray, "K B"]) -> list[ray.ObjectRef]:
    """Start one task per block of midpoints between test images with these latents.

    Their order is random but fixed: pairs do not depend on the shards, and mix the classes of sorted sources.
    """
    mixed = packed[drawn_rows(len(packed), len(packed))]
    return [
        tasks.start(FeatureExtractor.midpoint_block, mixed[start : start + BLOCK_ROWS], start // BLOCK_ROWS)
        for start in range(0, len(mixed), BLOCK_ROWS)
    ]


def midpoint_stream(blocks: list[ray.ObjectRef], dim: int, rows: int) -> Stream:
    """Wait for the tasks, and return the stream of all midpoints: ``rows`` rows of ``dim`` features."""
    stream = Stream(dim, rows)
    for block in blocks:
        stream.add(ray.get(block))
    return stream
