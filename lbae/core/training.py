"""The training loop: resident images, a fixed number of steps an epoch, one process or one of several.

The loop knows nothing of Ray. For data-parallel training the caller passes the wrapped network to step through and a
function that sums a tensor over all workers; every worker must hold as many training images as ``steps_per_epoch`` asks for.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lbae.config import Loss, Precision, TrainConfig
from lbae.core.codec import autocast, to_network
from lbae.core.network import LatentBernoulliAutoencoder

# A plain average over the first steps, then PyTorch's default: otherwise the initial variance of 1, far above that of the
# first layers, would weigh on the running statistics for a hundred steps.
_BATCHNORM_MOMENTUM = 0.1


def reconstruction_loss(logits: Tensor, images: Tensor, loss: Loss) -> Tensor:
    """Error of the reconstruction, summed over channels and pixels, averaged over the batch."""
    logits = logits.float()
    if loss == "bce":
        total = functional.binary_cross_entropy_with_logits(logits, images, reduction="sum")
    else:
        total = functional.mse_loss(torch.sigmoid(logits), images, reduction="sum")
    return total / len(images)


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine to zero at step ``total``."""
    warmup = round(config.warmup_fraction * total)
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What one pass over the training images gave; losses are means over all workers."""

    number: int
    train_loss: float
    validation_loss: float | None


@dataclass(kw_only=True)
class TrainState:
    """Everything a run continues from: the network, its optimiser and the epochs behind it."""

    network: LatentBernoulliAutoencoder
    optimizer: torch.optim.Optimizer
    history: list[Epoch]


def initial_state(network: LatentBernoulliAutoencoder, config: TrainConfig) -> TrainState:
    """A network about to see its first batch."""
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=True)
    return TrainState(network=network, optimizer=optimizer, history=[])


def training_step(
    stepped: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    loss: Loss,
    precision: Precision,
) -> Tensor:
    """One optimiser step on float images (K, C, H, W); returns the loss, detached."""
    optimizer.zero_grad(set_to_none=True)
    with autocast(images.device, precision):
        logits = stepped(images)
    value = reconstruction_loss(logits, images, loss)
    value.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return value.detach()


def train_epoch(
    state: TrainState,
    stepped: nn.Module,
    images: Tensor,
    config: TrainConfig,
    *,
    batch: int,
    steps: int,
    precision: Precision,
    on_step: Callable[[int], None] = lambda images: None,
) -> Tensor:
    """One epoch over uint8 images (K, H, W, C) in an order drawn from the seed and the epoch.

    ``batch`` and ``steps`` are this worker's; the K - batch * steps images left over differ from epoch to epoch. Returns the
    sum of the batch losses and their number, float64, ready to be added over workers.
    """
    epoch = len(state.history)
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
    order = torch.randperm(len(images), generator=generator)
    state.network.train()
    norms = [module for module in state.network.modules() if isinstance(module, nn.BatchNorm2d)]
    device = _device(state.network)
    total = torch.zeros((), device=device, dtype=torch.float64)
    for step in range(steps):
        behind = epoch * steps + step
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(behind, config.epochs * steps, config)
        for module in norms:
            module.momentum = max(_BATCHNORM_MOMENTUM, 1 / (behind + 1))
        index = order[step * batch : (step + 1) * batch].to(images.device)
        pixels = to_network(images[index].to(device), state.network.config)
        total += training_step(stepped, state.optimizer, pixels, config.loss, precision)
        on_step(len(index))
    return torch.stack([total, torch.full_like(total, steps)])


@torch.inference_mode()
def evaluate(
    network: LatentBernoulliAutoencoder, images: Tensor, config: TrainConfig, *, batch: int, precision: Precision
) -> Tensor:
    """Sum of the losses of uint8 images (K, H, W, C) and K, in evaluation mode; float64, ready to be added over workers."""
    network.eval()
    device = _device(network)
    total = torch.zeros((), device=device, dtype=torch.float64)
    for start in range(0, len(images), batch):
        chunk = images[start : start + batch]
        pixels = to_network(chunk.to(device), network.config)
        with autocast(device, precision):
            logits = network(pixels)
        total += reconstruction_loss(logits, pixels, config.loss) * len(chunk)
    return torch.stack([total, torch.full_like(total, len(images))])


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def train(
    state: TrainState,
    stepped: nn.Module,
    images: Tensor,
    held_out: Tensor,
    config: TrainConfig,
    *,
    batch: int,
    steps: int,
    precision: Precision,
    sum_over_workers: Callable[[Tensor], Tensor] = lambda value: value,
    on_step: Callable[[int], None] = lambda images: None,
    on_epoch: Callable[[TrainState], None] = lambda state: None,
) -> None:
    """Train ``state`` to ``config.epochs`` epochs, measuring the held-out images after each; ``on_epoch`` sees every one.

    FloatingPointError when the loss is no longer finite; then no worker goes on, since all of them see the same sum.
    """
    while len(state.history) < config.epochs:
        fit = sum_over_workers(
            train_epoch(state, stepped, images, config, batch=batch, steps=steps, precision=precision, on_step=on_step)
        )
        if not torch.isfinite(fit[0]):
            number = len(state.history) + 1
            raise FloatingPointError(f"the training loss became {float(fit[0])} in epoch {number}; lower the learning rate")
        average_buffers(state.network, sum_over_workers)
        check = sum_over_workers(evaluate(state.network, held_out, config, batch=batch, precision=precision))
        state.history.append(
            Epoch(
                number=len(state.history) + 1,
                train_loss=float(fit[0] / fit[1]),
                validation_loss=float(check[0] / check[1]) if check[1] else None,
            )
        )
        on_epoch(state)


def average_buffers(network: nn.Module, sum_over_workers: Callable[[Tensor], Tensor]) -> None:
    """Give every worker the mean of all workers' BatchNorm statistics, so that they evaluate and publish one network."""
    workers = sum_over_workers(torch.ones((), dtype=torch.float64, device=_device(network)))
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.copy_(sum_over_workers(buffer.clone()) / workers.to(buffer.dtype))
