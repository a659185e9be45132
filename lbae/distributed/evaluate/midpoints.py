"""The midpoints of paths between test images, as Ray tasks that run beside the comparisons."""

from typing import Any

import numpy as np
import ray
from jaxtyping import UInt8

from lbae.distributed.cluster.actor_pool import torch_device
from lbae.distributed.cluster.torch_env import torch_task
from lbae.report.evaluation.feature_extraction import BLOCK_ROWS, FeatureExtractor
from lbae.report.evaluation.streams import FeatureBlock, Stream
from lbae.report.features.feature_sums import drawn_rows


def start_midpoints(extractor: FeatureExtractor, packed: UInt8[np.ndarray, "K B"]) -> list[ray.ObjectRef]:
    """Start one task per block of midpoints between test images with these latents.

    Their order is random but fixed: pairs do not depend on the shards, and mix the classes of sorted sources.
    """
    shared, (device, share) = ray.put(extractor), torch_device()
    mixed = packed[drawn_rows(len(packed), len(packed))]
    task: Any = _midpoint_block.options(num_gpus=share)
    return [
        task.remote(shared, device, mixed[start : start + BLOCK_ROWS], start // BLOCK_ROWS)
        for start in range(0, len(mixed), BLOCK_ROWS)
    ]


def midpoint_stream(tasks: list[ray.ObjectRef], dim: int, rows: int) -> Stream:
    """Wait for the tasks, and return the stream of all midpoints: ``rows`` rows of ``dim`` features."""
    stream = Stream(dim, rows)
    for task in tasks:
        stream.add(ray.get(task))
    return stream


@torch_task
def _midpoint_block(extractor: FeatureExtractor, device: str, packed: np.ndarray, index: int) -> FeatureBlock:
    return extractor.to(device).midpoint_block(packed, index)
