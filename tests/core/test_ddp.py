"""Two data-parallel workers take the same step as one worker on the same global batch (gloo, no Ray)."""

import numpy as np
import torch
import torch.distributed
import torch.multiprocessing
from torch.nn.parallel import DistributedDataParallel

from lbae.config import ModelConfig, TrainConfig
from lbae.core.network import LatentBernoulliAutoencoder
from lbae.core.training import DATA_PARALLEL, average_buffers, initial_state, training_step

MODEL = ModelConfig(latent_dim=16, image_size=32, image_channels=1, channels=(8, 8, 16))
BATCH = 12


def step(rank: int, world: int) -> dict[str, np.ndarray]:
    """Gradients and weights after one step on this worker's share of the batch; BatchNorm in evaluation mode, float32."""
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
    stepped = DistributedDataParallel(network, **DATA_PARALLEL) if world > 1 else network
    images = torch.rand(BATCH, 1, 32, 32, generator=torch.Generator().manual_seed(1 + rank)) * (1 + rank)
    stepped.train()
    with torch.no_grad():
        for _ in range(3):
            stepped(images)
    return network.encoder[1].running_mean.numpy().copy(), network


def worker(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)

    def sum_over_workers(value: torch.Tensor) -> torch.Tensor:
        torch.distributed.all_reduce(value)
        return value

    result = step(rank, 2)
    own, network = statistics(rank, 2)
    average_buffers(network, sum_over_workers, torch.tensor(2.0, dtype=torch.float64))
    np.savez(f"{folder}/{rank}.npz", **result, own=own, averaged=network.encoder[1].running_mean.numpy())
    torch.distributed.destroy_process_group()


def test_two_workers_step_as_one(tmp_path):
    torch.multiprocessing.spawn(worker, args=(str(tmp_path),), nprocs=2)
    alone = step(0, 1)
    first, second = (np.load(tmp_path / f"{rank}.npz") for rank in (0, 1))
    for name, expected in alone.items():
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        # Adam's first step is lr * sign(gradient), which rounding decides where a gradient is zero: compare the gradients.
        if not name.endswith(" after"):
            np.testing.assert_allclose(first[name], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max(), err_msg=name)
    for rank, found in enumerate((first, second)):
        np.testing.assert_allclose(found["own"], statistics(rank, 1)[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found["averaged"], (first["own"] + second["own"]) / 2, rtol=1e-6)
    np.testing.assert_array_equal(first["averaged"], second["averaged"])
