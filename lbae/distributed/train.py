"""Training as a Ray Train job: DDP over resident shards, a checkpoint an epoch, a published model at the end."""

import os
import time
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed
from ray.train.v2.api.exceptions import TrainingFailedError
from torch import Tensor

from lbae import presets
from lbae.config import Config
from lbae.core.codec import best_precision
from lbae.core.network import LatentBernoulliAutoencoder
from lbae.core.training import Epoch, TrainState, initial_state
from lbae.core.training import train as train_network
from lbae.distributed.session import Meter, cluster_cpus, cluster_gpus, root_cause, session, watched
from lbae.errors import LbaeError, UserError
from lbae.io import artifact
from lbae.io import model as model_io
from lbae.io import source as image_source
from lbae.io.decode import check_bad_share, decode_every
from lbae.io.storage import absolute, resolve
from lbae.report.progress import ProgressLine

_CHECKPOINT = "state.pt"


def train(
    *,
    data: str,
    out: str,
    preset: str,
    epochs: int | None = None,
    workers: int | None = None,
    storage: str | None = None,
    latent_dim: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    seed: int | None = None,
    max_bad_fraction: float = 0.01,
    overwrite: bool = False,
    address: str | None = None,
) -> dict[str, Any]:
    """Train an LBAE on images and publish the model.

    Args:
        data: image table (Parquet) or folder of images.
        out: URI of the model artifact.
        preset: demo, mnist, cifar10 or celeba.
        epochs: passes over the images; the preset's when not given.
        workers: training processes; one a GPU, or one when there is no GPU.
        storage: URI for checkpoints, shared by all nodes; beside ``out`` when not given.
        latent_dim: N, bits of the latent; the preset's when not given.
        batch_size: global batch, over all workers; the preset's when not given.
        learning_rate: peak learning rate; the preset's when not given.
        seed: seed of weights and shuffling.
        max_bad_fraction: share of undecodable images above which the job fails.
        overwrite: replace another artifact at ``out``.
        address: Ray cluster to join; found or started when not given.
    """
    config = presets.get(preset).replace(
        epochs=epochs, latent_dim=latent_dim, batch_size=batch_size, learning_rate=learning_rate, seed=seed
    )
    images = image_source.plan(absolute(data))
    parents = {"data": images.fingerprint}
    if workers is not None and workers < 1:
        raise UserError(f"workers is {workers}; allowed: 1 or more")
    with session(address):
        scaling = _scaling(workers, config)
        run = {"workers": scaling.num_workers}
        done = artifact.begin(out, model_io.KIND, parents, {**config.to_dict(), **run}, overwrite)
        if done:
            return done
        started = time.monotonic()
        run_name = artifact.digest_json([config.to_dict(), run, parents])
        folder = absolute(storage or f"{absolute(out)}-checkpoints")
        if overwrite:
            (resolve(folder) / run_name).remove()
        best, metrics = _run(config, images, scaling, folder, run_name, max_bad_fraction)
        network = LatentBernoulliAutoencoder(config.model)
        network.load_state_dict(best)
        result = {
            **{name: metrics[name] for name in ("images", "bad", "best_epoch", "train_loss", "validation_loss", "history")},
            "loss": config.train.loss,
            "device": metrics["device"],
            "precision": metrics["precision"],
            "seconds": round(time.monotonic() - started, 1),
        }
        return model_io.save_model(out, network, config, parents=parents, run=run, result=result)


def _scaling(workers: int | None, config: Config) -> ray.train.ScalingConfig:
    """Workers and what each of them gets; UserError when the cluster has too little."""
    gpus, cpus = cluster_gpus(), cluster_cpus()
    count = workers or max(1, gpus)
    if count > (gpus or cpus):
        raise UserError(f"{count} workers were asked for; the cluster has {gpus} GPUs and {cpus} CPUs: lower --workers")
    if config.train.batch_size % count:
        raise UserError(f"batch_size {config.train.batch_size} is not a multiple of {count} workers; change one of them")
    per_worker = {"CPU": 1, "GPU": 1} if gpus else {"CPU": 1}
    return ray.train.ScalingConfig(num_workers=count, use_gpu=bool(gpus), resources_per_worker=per_worker)


def _run(
    config: Config,
    images: image_source.Source,
    scaling: ray.train.ScalingConfig,
    folder: str,
    name: str,
    max_bad_fraction: float,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Run the workers; the best weights and the metrics reported with them."""
    meter = Meter.remote()  # type: ignore[attr-defined]
    trainer = ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={
            "config": config.to_dict(),
            "source": images,
            "meter": meter,
            "max_bad_fraction": max_bad_fraction,
        },
        scaling_config=scaling,
        run_config=ray.train.RunConfig(
            name=name, storage_path=folder, checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1)
        ),
    )
    try:
        with ProgressLine("train", config.train.epochs * images.rows, "images") as line, watched(meter, line):
            result = trainer.fit()
    except TrainingFailedError as error:
        failures = getattr(error, "worker_failures", None) or {0: error}
        raise root_cause(next(iter(failures.values()))) from error
    if result.checkpoint is None:
        raise LbaeError(f"training ended without a checkpoint in {folder}/{name}")
    with result.checkpoint.as_directory() as path:
        state = torch.load(Path(path, _CHECKPOINT), weights_only=True, map_location="cpu")
    return state["best"], state["metrics"]


def _worker(settings: dict[str, Any]) -> None:
    """What every training worker runs."""
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    config = Config.from_dict(settings["config"])
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // context.get_local_world_size()))
    device = ray.train.torch.get_device()
    precision = best_precision(device)

    def sum_over_workers(value: Tensor) -> Tensor:
        if world > 1:
            torch.distributed.all_reduce(value)
        return value

    resident, held_out, bad = _resident(settings["source"], config, rank, world)
    counts = torch.tensor([len(resident), bad], device=device)
    smallest = counts[:1].clone()
    if world > 1:
        torch.distributed.all_reduce(smallest, op=torch.distributed.ReduceOp.MIN)
    trained, bad = (int(n) for n in sum_over_workers(counts))
    check_bad_share(settings["source"].uri, bad, settings["source"].rows, settings["max_bad_fraction"])
    if not int(smallest):
        raise UserError(f"{trained} training images are too few for {world} workers; lower --workers")
    batch = min(config.train.batch_size // world, int(smallest))
    steps = int(smallest) // batch

    network = LatentBernoulliAutoencoder(config.model, torch.Generator().manual_seed(config.train.seed))
    network = network.to(device).to(memory_format=torch.channels_last)
    state = initial_state(network, config.train)
    keeper = _Keeper(
        {"images": trained, "bad": bad, "device": _device_name(device), "precision": precision}, rank, settings["meter"]
    )
    keeper.restore(state)
    if device.type == "cuda" and resident.numel() < 0.5 * torch.cuda.mem_get_info(device)[0]:
        resident = resident.to(device)
    meter = settings["meter"]
    if rank == 0:
        an_epoch = steps * batch * world
        ray.get(meter.begin.remote(len(state.history) * an_epoch, config.train.epochs * an_epoch))
    train_network(
        state,
        ray.train.torch.prepare_model(network),
        resident,
        held_out,
        config.train,
        batch=batch,
        steps=steps,
        precision=precision,
        sum_over_workers=sum_over_workers,
        on_step=lambda images: meter.add.remote(images),
        on_epoch=keeper.keep,
    )


def _resident(source: image_source.Source, config: Config, rank: int, world: int) -> tuple[Tensor, Tensor, int]:
    """This worker's images, decoded: for training, held out for validation, and how many were bad."""
    parts = list(decode_every(source, config.model, rank, world))
    images = torch.from_numpy(np.concatenate([part.images for part in parts]))
    mask = torch.from_numpy(np.concatenate([image_source.held_out(part.rows["key"]) for part in parts]))
    return images[~mask], images[mask], sum(len(part.quarantine) for part in parts)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


class _Keeper:
    """Reports every epoch to Ray Train, with a checkpoint that holds the whole state and the best weights so far."""

    def __init__(self, facts: dict[str, Any], rank: int, meter: Any) -> None:
        self.facts, self.rank, self.meter = facts, rank, meter
        self.best: dict[str, Tensor] = {}
        self.best_epoch: Epoch | None = None

    def restore(self, state: TrainState) -> None:
        """Continue from the newest checkpoint of this run, when there is one."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return
        with checkpoint.as_directory() as path:
            saved = torch.load(Path(path, _CHECKPOINT), weights_only=True, map_location="cpu")
        state.network.load_state_dict(saved["network"])
        state.optimizer.load_state_dict(saved["optimizer"])
        state.history.extend(Epoch(**epoch) for epoch in saved["metrics"]["history"])
        self.best, self.best_epoch = saved["best"], state.history[saved["metrics"]["best_epoch"] - 1]

    def keep(self, state: TrainState) -> None:
        """Report the epoch that has just ended."""
        epoch = state.history[-1]
        if self.best_epoch is None or _criterion(epoch) <= _criterion(self.best_epoch):
            self.best = {name: value.detach().cpu().clone() for name, value in state.network.state_dict().items()}
            self.best_epoch = epoch
        metrics = {
            **self.facts,
            "best_epoch": self.best_epoch.number,
            "train_loss": self.best_epoch.train_loss,
            "validation_loss": self.best_epoch.validation_loss,
            "history": [asdict(past) for past in state.history],
        }
        if self.rank:
            ray.train.report(metrics)
            return
        self.meter.say.remote(
            f"epoch {epoch.number}, loss {epoch.train_loss:.2f}, held out {epoch.validation_loss or 0:.2f}"
        )
        with TemporaryDirectory() as path:
            saved = {
                "network": state.network.state_dict(),
                "optimizer": state.optimizer.state_dict(),
                "best": self.best,
                "metrics": metrics,
            }
            torch.save(saved, Path(path, _CHECKPOINT))
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(path))


def _criterion(epoch: Epoch) -> float:
    return epoch.validation_loss if epoch.validation_loss is not None else epoch.train_loss
