"""Where a worker's batches come from, and the seeds of everything random in an epoch."""

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

# Distance between workers' seeds, 2**32 over the golden ratio: PyTorch's CPU generator uses only 32 bits.
_WORKERS_APART = 2_654_435_761
_STEPS_APART = 2_246_822_519  # a prime of 32 bits too


@runtime_checkable
class Feed(Protocol):
    """The images of one worker: ``steps`` batches of ``batch`` images per epoch.

    ``stops`` are the numbers of steps, ascending and between 1 and ``steps`` - 1, after which an epoch can be
    interrupted and resumed.
    """

    batch: int
    steps: int
    stops: Sequence[int]

    def __call__(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """Yield the uint8 batches (K, H, W, C) of an epoch after the first ``start``, which is 0 or a stop.

        Epochs count from 0. The batches before a stop and those after it have no image in common. A batch
        may change when the next one is asked for.
        """
        ...


class Resident:
    """A feed of K images in memory, shuffled for every epoch by the seed and the epoch's number.

    An epoch leaves out K - batch * steps images, different ones each time.
    """

    def __init__(self, images: Tensor, batch: int, steps: int, seed: int) -> None:
        self._images, self.batch, self.steps, self._seed = images, batch, steps, seed
        self.stops: Sequence[int] = range(1, steps)

    def __call__(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """Yield the batches of one epoch after the first ``start``."""
        order = torch.randperm(
            len(self._images), generator=torch.Generator().manual_seed(epoch_seed(self._seed, epoch))
        )
        taken = order[self.batch * start : self.batch * self.steps].to(self._images.device)
        for index in torch.split(taken, self.batch):
            yield self._images[index]


def epoch_seed(seed: int, epoch: int, worker: int = 0) -> int:
    """The seed of a worker's epoch, so that a resumed run needs no random states."""
    return (seed * 1_000_003 + epoch + worker * _WORKERS_APART) % 2**64  # the range of PyTorch's seeds


def step_seed(seed: int, epoch: int, step: int, worker: int) -> int:
    """The seed of everything random in one step of a worker, so that an epoch can be resumed at any step."""
    return (epoch_seed(seed, epoch, worker) + (step + 1) * _STEPS_APART) % 2**64
