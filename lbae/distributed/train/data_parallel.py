"""The network as several workers train it: its BatchNorm statistics, and how gradients are exchanged."""

import ray.train.torch
import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from lbae.config import Precision
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.network.training import data_parallel

# From so many images per worker and step on, a worker's own BatchNorm statistics serve. Goyal et al. (2017)
# trained with 32 per GPU at no loss. This is twice as many, because these networks have not been measured.
_ENOUGH_IMAGES = 64


def shares_statistics(device: torch.device, world: int, batch: int) -> bool:
    """Whether BatchNorm statistics are of the global batch, for ``batch`` images per worker and step.

    That takes two small collectives per layer and step, which no computation hides. PyTorch has them on GPUs
    only; on CPUs the default number of workers gives each 32 images or more.
    """
    return device.type == "cuda" and world > 1 and batch < _ENOUGH_IMAGES


def on_device(
    network: LatentBernoulliAutoencoder, device: torch.device, world: int, batch: int
) -> LatentBernoulliAutoencoder:
    """The network on a worker's device, with the BatchNorm statistics of :func:`shares_statistics`."""
    if shares_statistics(device, world, batch):
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    # Every step has the same shapes, so cuDNN may time its algorithms once and keep the fastest.
    torch.backends.cudnn.benchmark = device.type == "cuda"
    return network.to(device).to(memory_format=torch.channels_last)


def as_worker(network: nn.Module, device: torch.device, gradients: Precision) -> nn.Module:
    """The network whose backward pass averages gradients over all workers, sent as ``gradients``."""
    stepped: nn.Module = ray.train.torch.prepare_model(
        network, move_to_device=device, parallel_strategy_kwargs=data_parallel(device)
    )
    if isinstance(stepped, DistributedDataParallel):
        send_gradients_as(gradients, stepped)
    return stepped


def send_gradients_as(gradients: Precision, stepped: DistributedDataParallel) -> None:
    """Let a wrapped network exchange its gradients at a precision; they stay float32 before and after."""
    if gradients == "bfloat16":
        stepped.register_comm_hook(None, bf16_compress_hook)
