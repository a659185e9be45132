"""The training loop: a fixed number of steps per epoch over batches from a feed, on one or several workers.

The loop does not need Ray. For data-parallel training the caller passes the wrapped network (``stepped``) and
a function that sums a tensor over all workers. The feeds of all workers must have the same number of steps,
and yield one batch for each.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from lbae.config import Loss, Precision, TrainConfig
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.network.codec import autocast, from_network, to_network
from lbae.core.network.feed import Feed, step_seed
from lbae.errors import LbaeError

# Running statistics are a plain average over the first ten steps, then decay at PyTorch's default rate.
# Otherwise their initial variance of 1, far above that of the first layers, would distort them for a hundred
# steps.
BATCHNORM_MOMENTUM = 0.1
# Steps between checks that losses are finite: an epoch of a large corpus takes days.
_LOOK_STEPS = 100
# Pixels per batch in evaluation: 512 images with a side of 32 pixels, or 8 with a side of 256.
_PIXELS_AT_A_TIME = 2**19


def reconstruction_loss(logits: Tensor, images: Tensor, loss: Loss) -> Tensor:
    """Reconstruction loss, summed over channels and pixels, averaged over the batch."""
    logits = logits.float()
    if loss == "bce":
        total = functional.binary_cross_entropy_with_logits(logits, images, reduction="sum")
    else:
        total = functional.mse_loss(torch.sigmoid(logits), images, reduction="sum")
    return total / len(images)


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """Learning rate at ``step``: linear warm-up, then a cosine to zero at step ``total``; or constant."""
    if config.schedule == "constant":
        return config.learning_rate
    warmup = round(config.warmup_fraction * total)
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """Losses of one pass over the training images, as means over all workers."""

    number: int
    train_loss: float
    validation_loss: float | None
    test_loss: float | None = None

    @property
    def criterion(self) -> float:
        """The loss that selects the best epoch: of the held-out images, or if there are none, in training."""
        return self.train_loss if self.validation_loss is None else self.validation_loss


@dataclass(kw_only=True)
class TrainState:
    """Everything a run resumes from: network, optimiser, finished epochs and place in the current one.

    ``losses`` are float64, one for each step that this worker has taken in the current epoch.
    """

    network: LatentBernoulliAutoencoder
    optimizer: torch.optim.Optimizer
    history: list[Epoch]
    losses: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))


def initial_state(network: LatentBernoulliAutoencoder, config: TrainConfig) -> TrainState:
    """State before the first step, with a new Adam optimiser and no epochs."""
    betas = (0.9, config.adam_beta2)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate, betas=betas, fused=True)
    return TrainState(network=network, optimizer=optimizer, history=[])


def training_step(
    stepped: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    loss: Loss,
    precision: Precision,
) -> Tensor:
    """Take one optimiser step on float images (K, C, H, W); return the reconstruction loss, detached."""
    optimizer.zero_grad(set_to_none=True)
    with autocast(images.device, precision):
        logits, price = stepped(images)
    value = reconstruction_loss(logits, images, loss)
    (value + price.float()).backward()
    optimizer.step()
    return value.detach()


def data_parallel(device: torch.device) -> dict[str, bool]:
    """Options of PyTorch's data-parallel wrapper.

    Buffers are not synchronised: every worker keeps BatchNorm statistics of its own images, and
    :func:`average_buffers` averages them after the epoch. By default, those of the first worker would replace
    all others at every step.

    On CPUs the wrapper looks for unused parameters, although there are none. Otherwise it reorders the
    gradients after its first step, and three or more workers sum a gradient in an order that depends on its
    place. A resumed run has a first step of its own, so its losses would differ in their last bits.
    """
    return {
        "forward_sync_buffers": False,
        "find_unused_parameters": device.type == "cpu",
        "gradient_as_bucket_view": True,  # else every worker holds its gradients twice
    }


def train_epoch(
    state: TrainState,
    stepped: nn.Module,
    feed: Feed,
    config: TrainConfig,
    *,
    precision: Precision,
    worker: int = 0,
    on_step: Callable[[int], None] = lambda images: None,
    on_stop: Callable[[TrainState], None] = lambda state: None,
) -> Tensor:
    """Train to the end of an epoch; return its steps' losses, float64, to be summed over workers.

    Losses are those of the reconstruction. ``on_stop`` is called at the feed's stops, where the state can be
    saved. Every hundred steps the losses are checked: LbaeError if one of this worker's is not finite.
    """
    epoch, steps, start = len(state.history), feed.steps, len(state.losses)
    state.network.train()
    norms = [module for module in state.network.modules() if isinstance(module, _BatchNorm)]
    device = _device(state.network)
    losses = torch.full((steps,), math.nan, device=device, dtype=torch.float64)
    losses[:start] = state.losses
    for step, images in zip(range(start, steps), feed(epoch, start), strict=True):
        behind = epoch * steps + step
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(behind, config.epochs * steps, config)
        for module in norms:
            module.momentum = max(BATCHNORM_MOMENTUM, 1 / (behind + 1))
        torch.manual_seed(step_seed(config.seed, epoch, step, worker))  # for mirrors, and Gaussian codes
        batch = images.to(device, non_blocking=True)
        if config.flips:
            mirrored = (torch.rand(feed.batch) < 0.5).to(device, non_blocking=True)
            batch = torch.where(mirrored[:, None, None, None], batch.flip(2), batch)
        pixels = to_network(batch, state.network.config)
        losses[step] = training_step(stepped, state.optimizer, pixels, config.loss, precision)
        if step % _LOOK_STEPS == _LOOK_STEPS - 1:
            check_steps(losses[: step + 1], epoch, steps)
        on_step(len(batch))
        if step + 1 in feed.stops:
            state.losses = losses[: step + 1]
            on_stop(state)
    return losses


@torch.inference_mode()
def evaluate(
    network: LatentBernoulliAutoencoder, images: Tensor, config: TrainConfig, *, precision: Precision
) -> Tensor:
    """Sum of the losses of uint8 images (K, H, W, C), and K, in evaluation mode.

    Both are float64, to be summed over workers.
    """
    network.eval()
    device = _device(network)
    total = torch.zeros((), device=device, dtype=torch.float64)
    for chunk in _chunks(images):
        pixels = to_network(chunk.to(device), network.config)
        with autocast(device, precision):
            logits, _ = network(pixels)
        total += reconstruction_loss(logits, pixels, config.loss) * len(chunk)
    return torch.stack([total, torch.full_like(total, len(images))])


@torch.inference_mode()
def reconstruct(
    network: LatentBernoulliAutoencoder, images: Tensor, shown: int, *, precision: Precision
) -> tuple[Tensor, Tensor]:
    """Float32 codes (K, width) of uint8 images (K, H, W, C), and the first ``shown`` uint8 reconstructions.

    The network runs in evaluation mode.
    """
    network.eval()
    device, chunks = _device(network), _chunks(images)
    with autocast(device, precision):
        codes = torch.cat([network.encode(to_network(chunk.to(device), network.config)) for chunk in chunks])
        logits = [network.decode_logits(some) for some in torch.split(codes[:shown], len(chunks[0]))]
    return codes.float(), from_network(torch.cat(logits), network.config)


def _chunks(images: Tensor) -> tuple[Tensor, ...]:
    """Batches of images (K, H, W, C) that fit memory at any image size; none of no images."""
    return (
        torch.split(images, max(1, _PIXELS_AT_A_TIME // (images.shape[1] * images.shape[2])))
        if len(images)
        else ()
    )


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
    test: Tensor | None = None,
    worker: int = 0,
    sum_over_workers: Callable[[Tensor], Tensor] = lambda value: value,
    on_step: Callable[[int], None] = lambda images: None,
    on_stop: Callable[[TrainState], None] = lambda state: None,
    on_epoch: Callable[[TrainState], None] = lambda state: None,
) -> None:
    """Train ``state`` up to ``config.epochs`` epochs, and measure the held-out images after each.

    ``on_stop`` is called at the feed's stops, ``on_epoch`` after each epoch. A run that continues from the
    state of either ends like one that was never interrupted. The images of ``test`` are measured as well, but
    influence nothing. LbaeError if a loss is not finite; after an epoch all workers check the same sums, so
    all stop.
    """

    def measured(images: Tensor) -> float | None:
        total, count = sum_over_workers(evaluate(state.network, images, config, precision=precision)).tolist()
        return total / count if count else None

    workers = sum_over_workers(torch.ones((), dtype=torch.float64, device=_device(state.network)))
    while len(state.history) < config.epochs:
        steps = train_epoch(
            state,
            stepped,
            feed,
            config,
            precision=precision,
            worker=worker,
            on_step=on_step,
            on_stop=on_stop,
        )
        losses = sum_over_workers(steps)
        check_steps(losses, len(state.history), len(losses))
        average_buffers(state.network, sum_over_workers, workers)
        epoch = Epoch(
            number=len(state.history) + 1,
            train_loss=float(losses.mean() / workers),
            validation_loss=measured(held_out),
            test_loss=None if test is None else measured(test),
        )
        if not math.isfinite(epoch.criterion):  # no training loss was computed after the last update
            raise _diverged(
                f"loss of the held-out images became {epoch.criterion} after epoch {epoch.number}"
            )
        state.history.append(epoch)
        state.losses = losses[:0]
        on_epoch(state)


def check_steps(losses: Tensor, epoch: int, steps: int) -> None:
    """Raise LbaeError if one of the first losses of an epoch of ``steps`` steps is not finite."""
    bad = (~torch.isfinite(losses)).nonzero()
    if len(bad):
        step = int(bad[0])
        raise _diverged(
            f"training loss became {float(losses[step])} in step {epoch * steps + step + 1}, batch"
            f" {step + 1} of {steps} of epoch {epoch + 1}"
        )


def _diverged(what: str) -> LbaeError:
    return LbaeError(f"the {what}; lower the learning rate. Earlier checkpoints are kept")


def average_buffers(
    network: nn.Module, sum_over_workers: Callable[[Tensor], Tensor], workers: Tensor
) -> None:
    """Replace BatchNorm statistics by their mean over all workers.

    All workers then evaluate and publish the same network.
    """
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.copy_(sum_over_workers(buffer.clone()) / workers.to(buffer.dtype))
