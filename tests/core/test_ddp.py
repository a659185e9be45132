"""Data-parallel workers step as one worker on the same global batch, and resume exactly (gloo, no Ray)."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch.nn.parallel import DistributedDataParallel

from lbae.config import ModelConfig, TrainConfig
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.network.feed import Resident
from lbae.core.network.training import (
    TrainState,
    average_buffers,
    data_parallel,
    initial_state,
    train,
    training_step,
)
from lbae.io.artifacts.training_checkpoint import load_checkpoint, save_checkpoint

MODEL = ModelConfig(latent_dim=16, image_size=32, image_channels=1, channels=(8, 8, 16))
BATCH, WORLD = 12, 3
CPU = torch.device("cpu")


def step(rank: int, world: int) -> dict[str, np.ndarray]:
    """Gradients and weights after one float32 step on this worker's share, BatchNorm in evaluation mode."""
    torch.set_num_threads(1)
    network = LatentBernoulliAutoencoder(MODEL, torch.Generator().manual_seed(0))
    state = initial_state(network, TrainConfig())
    images = torch.rand(BATCH, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    stepped = DistributedDataParallel(network) if world > 1 else network
    stepped.eval()
    training_step(stepped, state.optimizer, images[rank::world], "mse", "float32")
    gradients = {name: p.grad.numpy().copy() for name, p in network.named_parameters()}
    return gradients | {f"{name} after": p.detach().numpy().copy() for name, p in network.named_parameters()}


def statistics(rank: int, world: int) -> tuple[np.ndarray, torch.nn.Module]:
    """Running means of the first BatchNorm after three steps in training mode on this worker's images."""
    network = LatentBernoulliAutoencoder(MODEL, torch.Generator().manual_seed(0))
    stepped = DistributedDataParallel(network, **data_parallel(CPU)) if world > 1 else network
    images = torch.rand(BATCH, 1, 32, 32, generator=torch.Generator().manual_seed(1 + rank)) * (1 + rank)
    stepped.train()
    with torch.no_grad():
        for _ in range(3):
            stepped(images)
    return network.encoder[1].running_mean.numpy().copy(), network


def second_steps(rank: int, world: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Weights after the second step of a run, and of a run resumed from the state after the first."""
    images = torch.rand(2, BATCH, 1, 32, 32, generator=torch.Generator().manual_seed(1))[:, rank::world]

    def begun() -> tuple[TrainState, DistributedDataParallel]:
        network = LatentBernoulliAutoencoder(MODEL, torch.Generator().manual_seed(0))
        return initial_state(network, TrainConfig()), DistributedDataParallel(network, **data_parallel(CPU))

    whole, stepped = begun()
    training_step(stepped, whole.optimizer, images[0], "mse", "float32")
    saved = copy.deepcopy((whole.network.state_dict(), whole.optimizer.state_dict()))
    training_step(stepped, whole.optimizer, images[1], "mse", "float32")
    continued, stepped = begun()
    continued.network.load_state_dict(saved[0])
    continued.optimizer.load_state_dict(saved[1])
    training_step(stepped, continued.optimizer, images[1], "mse", "float32")
    first, second = (
        {name: p.numpy() for name, p in s.network.state_dict().items()} for s in (whole, continued)
    )
    return first, second


def resumed_inside_an_epoch(rank: int, folder: Path) -> list[list[float]]:
    """Training losses of a run, and of one that resumes from its checkpoint after three of five steps."""
    config = TrainConfig(batch_size=BATCH, epochs=2)
    generator = torch.Generator().manual_seed(rank)
    images = torch.randint(256, (20, 32, 32, 1), dtype=torch.uint8, generator=generator)
    feed = Resident(images, 4, 5, 0)

    def save(state: TrainState) -> None:
        if len(state.history) == 1 and len(state.losses) == 3:
            save_checkpoint(folder, state, feed, rank)
            torch.distributed.barrier()

    def run(resume: bool) -> list[float]:
        network = LatentBernoulliAutoencoder(MODEL, torch.Generator().manual_seed(0))
        stepped, state = (
            DistributedDataParallel(network, **data_parallel(CPU)),
            initial_state(network, config),
        )
        if resume:
            load_checkpoint(folder, state, feed, rank, WORLD)
        train(
            state, stepped, feed, images[:0], config, precision="float32", worker=rank,
            sum_over_workers=sum_over_workers, on_stop=save,
        )  # fmt: skip
        statistics = [float(buffer.sum()) for buffer in network.buffers()]
        return [epoch.train_loss for epoch in state.history] + statistics

    return [run(False), run(True)]


def sum_over_workers(value: torch.Tensor) -> torch.Tensor:
    torch.distributed.all_reduce(value)
    return value


def worker(rank: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD
    )

    result = step(rank, WORLD)
    own, network = statistics(rank, WORLD)
    average_buffers(network, sum_over_workers, torch.tensor(float(WORLD), dtype=torch.float64))
    np.savez(f"{folder}/{rank}.npz", **result, own=own, averaged=network.encoder[1].running_mean.numpy())
    for name, weights in zip(("whole", "continued"), second_steps(rank, WORLD), strict=True):
        np.savez(f"{folder}/{name}{rank}.npz", **weights)
    inside = resumed_inside_an_epoch(rank, Path(folder))
    Path(folder, f"inside{rank}.json").write_text(json.dumps(inside))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Path:
    """Folder with the results of all workers."""
    folder = tmp_path_factory.mktemp("workers")
    torch.multiprocessing.spawn(worker, args=(str(folder),), nprocs=WORLD)
    return folder


def test_three_workers_step_as_one(found):
    alone = step(0, 1)
    workers = [np.load(found / f"{rank}.npz") for rank in range(WORLD)]
    for name, expected in alone.items():
        for other in workers[1:]:
            np.testing.assert_array_equal(workers[0][name], other[name], err_msg=name)
        # Adam's first step is lr * sign(gradient), which rounding decides where a gradient is zero: compare
        # the gradients.
        if not name.endswith(" after"):
            tolerance = 1e-5 * np.abs(expected).max()
            np.testing.assert_allclose(workers[0][name], expected, rtol=1e-5, atol=tolerance, err_msg=name)
    mean = np.mean([each["own"] for each in workers], axis=0)
    for rank, each in enumerate(workers):
        np.testing.assert_allclose(each["own"], statistics(rank, 1)[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(each["averaged"], mean, rtol=1e-6)
        np.testing.assert_array_equal(workers[0]["averaged"], each["averaged"])


@pytest.mark.parametrize("rank", range(WORLD))
def test_resumed_workers_step_exactly_as_uninterrupted_ones(found, rank):
    """Bit for bit. Two workers would not test this, because a sum of two has no order."""
    whole, continued = (np.load(found / f"{name}{rank}.npz") for name in ("whole", "continued"))
    for name, weights in whole.items():
        np.testing.assert_array_equal(weights, continued[name], err_msg=name)


@pytest.mark.parametrize("rank", range(WORLD))
def test_workers_resumed_inside_an_epoch_end_as_uninterrupted_ones(found, rank):
    """Each worker gets its own BatchNorm statistics back; those of another would change their mean."""
    whole, resumed = json.loads((found / f"inside{rank}.json").read_text())
    assert whole == resumed
