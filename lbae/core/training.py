"""The training loop: a fixed number of steps an epoch over batches from a feed, one process or one of several.

The loop knows nothing of Ray. For data-parallel training the caller passes the wrapped network to step through and a
function that sums a tensor over all workers; every worker's feed must give as many batches as there are steps.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from lbae.config import Loss, Precision, TrainConfig
from lbae.core.codec import autocast, from_network, to_network
from lbae.core.network import LatentBernoulliAutoencoder

# A plain average over the first steps, then PyTorch's default: otherwise the initial variance of 1, far above that of the
# first layers, would weigh on the running statistics for a hundred steps.
_BATCHNORM_MOMENTUM = 0.1
_VALIDATION_BATCH = 512


@runtime_checkable
class Feed(Protocol):
    """The images of one worker: ``steps`` batches of ``batch`` images an epoch."""

    batch: int
    steps: int

    def __call__(self, epoch: int) -> Iterator[Tensor]:
        """The uint8 batches (K, H, W, C) of an epoch, by its number from 0."""
        ...


def reconstruction_loss(logits: Tensor, images: Tensor, loss: Loss) -> Tensor:
    """Error of the reconstruction, summed over channels and pixels, averaged over the batch."""
    logits = logits.float()
    if loss == "bce":
        total = functional.binary_cross_entropy_with_logits(logits, images, reduction="sum")
    else:
        total = functional.mse_loss(torch.sigmoid(logits), images, reduction="sum")
    return total / len(images)


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine to zero at step ``total``; or the constant rate."""
    if config.schedule == "constant":
        return config.learning_rate
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

    @property
    def criterion(self) -> float:
        """What the best epoch has least of: the loss of the held-out images, else of the training images."""
        return self.train_loss if self.validation_loss is None else self.validation_loss


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
    """One optimiser step on float images (K, C, H, W); returns the reconstruction loss, detached."""
    optimizer.zero_grad(set_to_none=True)
    with autocast(images.device, precision):
        logits, price = stepped(images)
    value = reconstruction_loss(logits, images, loss)
    (value + price.float()).backward()
    optimizer.step()
    return value.detach()


class Resident:
    """A feed of images in memory: every epoch in another order, drawn from the seed and the epoch.

    The K - batch * steps images left over differ from epoch to epoch.
    """

    def __init__(self, images: Tensor, batch: int, steps: int, seed: int) -> None:
        self._images, self.batch, self.steps, self._seed = images, batch, steps, seed

    def __call__(self, epoch: int) -> Iterator[Tensor]:
        """Batches of one epoch."""
        order = torch.randperm(len(self._images), generator=torch.Generator().manual_seed(epoch_seed(self._seed, epoch)))
        for index in torch.split(order[: self.batch * self.steps], self.batch):
            yield self._images[index.to(self._images.device)]


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of everything random in an epoch: a run that continues needs no random states."""
    return seed * 1_000_003 + epoch


def train_epoch(
    state: TrainState,
    stepped: nn.Module,
    feed: Feed,
    config: TrainConfig,
    *,
    precision: Precision,
    on_step: Callable[[int], None] = lambda images: None,
) -> Tensor:
    """One epoch; returns its batches' reconstruction losses, float64, ready to be added over workers."""
    epoch = len(state.history)
    coins = torch.Generator().manual_seed(epoch_seed(config.seed, epoch))
    torch.manual_seed(epoch_seed(config.seed, epoch))  # the noise of Gaussian codes
    state.network.train()
    norms = [module for module in state.network.modules() if isinstance(module, _BatchNorm)]
    device = _device(state.network)
    steps = feed.steps
    losses = torch.full((steps,), math.nan, device=device, dtype=torch.float64)
    for step, images in zip(range(steps), feed(epoch), strict=True):
        behind = epoch * steps + step
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(behind, config.epochs * steps, config)
        for module in norms:
            module.momentum = max(_BATCHNORM_MOMENTUM, 1 / (behind + 1))
        batch = images.to(device, non_blocking=True)
        if config.flips:
            batch = _flipped(batch, coins)
        pixels = to_network(batch, state.network.config)
        losses[step] = training_step(stepped, state.optimizer, pixels, config.loss, precision)
        on_step(len(batch))
    return losses


def _flipped(images: Tensor, coins: torch.Generator) -> Tensor:
    """Each image (K, H, W, C) mirrored or not."""
    heads = (torch.rand(len(images), generator=coins) < 0.5).to(images.device)
    return torch.where(heads[:, None, None, None], images.flip(2), images)


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
            logits, _ = network(pixels)
        total += reconstruction_loss(logits, pixels, config.loss) * len(chunk)
    return torch.stack([total, torch.full_like(total, len(images))])


@torch.inference_mode()
def reconstruct(network: LatentBernoulliAutoencoder, images: Tensor, *, precision: Precision) -> tuple[Tensor, Tensor]:
    """Codes (K, width), float32, and reconstructions, uint8 (K, H, W, C), of uint8 images in evaluation mode."""
    network.eval()
    with autocast(_device(network), precision):
        codes = network.encode(to_network(images.to(_device(network)), network.config))
        logits = network.decode_logits(codes)
    return codes.float(), from_network(logits, network.config)


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def train(
    state: TrainState,
    stepped: nn.Module,
    feed: Feed,
    held_out: Tensor,
    config: TrainConfig,
    *,
    precision: Precision,
    sum_over_workers: Callable[[Tensor], Tensor] = lambda value: value,
    on_step: Callable[[int], None] = lambda images: None,
    on_epoch: Callable[[TrainState], None] = lambda state: None,
) -> None:
    """Train ``state`` to ``config.epochs`` epochs, measuring the held-out images after each; ``on_epoch`` sees every one.

    FloatingPointError when a loss was not finite; then no worker goes on, since all of them see the same sums.
    """
    workers = sum_over_workers(torch.ones((), dtype=torch.float64, device=_device(state.network)))
    while len(state.history) < config.epochs:
        losses = sum_over_workers(train_epoch(state, stepped, feed, config, precision=precision, on_step=on_step))
        _check_finite(losses, len(state.history))
        average_buffers(state.network, sum_over_workers, workers)
        check = sum_over_workers(evaluate(state.network, held_out, config, batch=_VALIDATION_BATCH, precision=precision))
        state.history.append(
            Epoch(
                number=len(state.history) + 1,
                train_loss=float(losses.mean() / workers),
                validation_loss=float(check[0] / check[1]) if check[1] else None,
            )
        )
        on_epoch(state)


def _check_finite(losses: Tensor, epoch: int) -> None:
    bad = (~torch.isfinite(losses)).nonzero()
    if len(bad):
        step = int(bad[0])
        raise FloatingPointError(
            f"the training loss became {float(losses[step])} in step {epoch * len(losses) + step + 1}, batch {step + 1} of"
            f" {len(losses)} of epoch {epoch + 1}; lower the learning rate. Checkpoints of earlier epochs are kept"
        )


def average_buffers(network: nn.Module, sum_over_workers: Callable[[Tensor], Tensor], workers: Tensor) -> None:
    """Give every worker the mean of all workers' BatchNorm statistics, so that they evaluate and publish one network."""
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.copy_(sum_over_workers(buffer.clone()) / workers.to(buffer.dtype))
