"""Two workers of gloo train with gradients of either precision; no Ray runs."""

import json
from pathlib import Path

import torch
import torch.distributed
import torch.multiprocessing
from torch.nn.parallel import DistributedDataParallel

from lbae.config import ModelConfig, Precision, TrainConfig
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.network.training import data_parallel, initial_state, training_step
from lbae.distributed.train.data_parallel import send_gradients_as

MODEL = ModelConfig(latent_dim=64, image_size=32, image_channels=1, channels=(8, 16), latent_grid=8)
STEPS, BATCH, WORLD = 20, 16, 2


def losses(rank: int, gradients: Precision) -> tuple[list[float], list[float]]:
    """Losses of one worker, and its last gradients."""
    torch.set_num_threads(1)
    network = LatentBernoulliAutoencoder(MODEL, torch.Generator().manual_seed(0))
    state = initial_state(network.to(memory_format=torch.channels_last), TrainConfig(learning_rate=3e-3))
    stepped = DistributedDataParallel(network, **data_parallel(torch.device("cpu")))
    send_gradients_as(gradients, stepped)
    images = torch.rand(BATCH, 1, 4, 4, generator=torch.Generator().manual_seed(rank))
    images = images.repeat_interleave(8, 2).repeat_interleave(8, 3)
    found = [training_step(stepped, state.optimizer, images, "mse", "float32").item() for _ in range(STEPS)]
    last = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
    assert last.dtype == torch.float32
    return found, last.tolist()


def worker(rank: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD
    )
    found = {gradients: losses(rank, gradients) for gradients in ("float32", "bfloat16")}
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def test_gradients_in_bfloat16_train_as_well(tmp_path):
    torch.multiprocessing.spawn(worker, args=(str(tmp_path),), nprocs=WORLD)
    both = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(WORLD)]
    for gradients in ("float32", "bfloat16"):
        assert both[0][gradients][1] == both[1][gradients][1], "all workers step by the same gradients"
    exact, rounded = (torch.tensor([found[name][0] for found in both]) for name in ("float32", "bfloat16"))
    assert not torch.equal(exact[:, 2:], rounded[:, 2:]), "gradients were rounded"
    assert exact[:, -1].mean() < 0.8 * exact[:, 0].mean()
    torch.testing.assert_close(rounded[:, -1].mean(), exact[:, -1].mean(), rtol=0.05, atol=0)
    sent = torch.tensor(both[0]["bfloat16"][1])
    assert torch.equal(sent, sent.bfloat16().float()), "gradients have the precision at which they are sent"
