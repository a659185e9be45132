"""The files of a training checkpoint: ``state.pt``, and inside an epoch one more per worker.

Between the ends of epochs every worker has BatchNorm statistics and losses of its own, so each saves them in
``worker-RANK.pt``. At the end of an epoch the statistics are equal, and the losses are in the history.
"""

import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lbae.core.network.feed import Feed
from lbae.core.network.training import Epoch, TrainState

_SHARED = "state.pt"


def save_checkpoint(folder: Path, state: TrainState, feed: Feed, worker: int, bad: int = 0) -> None:
    """Write one worker's files of a checkpoint into a folder.

    Those of all workers together are the checkpoint. ``bad`` counts the worker's undecodable images of the
    current epoch.
    """
    if worker == 0:
        shared = {
            "network": state.network.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "history": [asdict(epoch) for epoch in state.history],
        }
        _write(folder / _SHARED, shared)
    if len(state.losses):
        own = {
            "statistics": _statistics(state.network),
            "losses": state.losses.cpu().clone(),  # without the memory of later steps
            "steps": feed.steps,
            "bad": bad,
        }
        _write(folder / f"worker-{worker}.pt", own)


def load_checkpoint(folder: Path, state: TrainState, feed: Feed, worker: int, workers: int) -> int:
    """Continue ``state``, which is that of a new run, from a checkpoint.

    If the number of workers has changed inside an epoch, each takes the mean statistics, and continues at the
    last stop that is no further into the epoch. Images are then dealt out anew, so in this epoch some come
    twice and others not at all.

    Returns:
        The undecodable images in the part of the epoch before the checkpoint, to be summed over workers.
    """
    shared = _read(folder / _SHARED)
    state.network.load_state_dict(shared["network"])
    state.optimizer.load_state_dict(shared["optimizer"])
    state.history.extend(Epoch(**epoch) for epoch in shared["history"])
    files = [folder / f"worker-{rank}.pt" for rank in range(len(list(folder.glob("worker-*.pt"))))]
    if not files:
        return 0
    if len(files) == workers:
        own = _read(files[worker])
        statistics, losses, bad = own["statistics"], own["losses"], int(own["bad"])
    else:
        each = [_read(file) for file in files]
        statistics = {
            name: torch.stack([one["statistics"][name] for one in each]).mean(0)
            for name in each[0]["statistics"]
        }
        losses = _resized(torch.stack([one["losses"] for one in each]).mean(0), each[0]["steps"], feed)
        bad = 0 if worker else sum(one["bad"] for one in each)
    with torch.no_grad():
        for name, buffer in _statistics(state.network).items():
            buffer.copy_(statistics[name])
    state.losses = losses
    return bad


def load_network(folder: Path) -> dict[str, Tensor]:
    """The weights that a checkpoint holds."""
    weights: dict[str, Tensor] = _read(folder / _SHARED)["network"]
    return weights


def _resized(losses: Tensor, steps: int, feed: Feed) -> Tensor:
    """The mean loss for every step up to the feed's last stop within the finished share of an epoch."""
    share = len(losses) / steps
    done = max((stop for stop in feed.stops if stop <= share * feed.steps), default=0)
    return losses.mean().repeat(done)


def _statistics(network: nn.Module) -> dict[str, Tensor]:
    return {name: buffer for name, buffer in network.named_buffers() if buffer.is_floating_point()}


def _write(file: Path, content: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    file.write_bytes(buffer.getvalue())  # torch.save would hide a full disk


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(file, weights_only=True, map_location="cpu")
    return found
