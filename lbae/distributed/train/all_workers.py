"""A training worker's device, and sums over all workers."""

import ray
import ray.train.torch
import torch
import torch.distributed
from torch import Tensor

from lbae.distributed.cluster.device import checked_device, device_type


def own_device() -> torch.device:
    """This worker's GPU, or the CPU."""
    checked = checked_device(device_type(len(ray.get_gpu_ids())))
    return ray.train.torch.get_device() if checked.type == "cuda" else checked


def sum_over_workers(value: Tensor) -> Tensor:
    """Replace a tensor on the workers' devices by its sum over all workers, and return it."""
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        torch.distributed.all_reduce(value)
    return value


def totals(*counts: int) -> list[int]:
    """Each count summed over all workers."""
    return [int(n) for n in sum_over_workers(torch.tensor(counts, device=own_device()))]


def least(count: int) -> int:
    """The smallest of all workers' counts."""
    value = torch.tensor(count, device=own_device())
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MIN)
    return int(value)
