"""Training as a Ray Train job: data-parallel workers, a checkpoint an epoch, a published model at the end."""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any, Literal

import ray
import ray.train
import ray.train.torch
import torch
from ray.train.v2.api.exceptions import TrainingFailedError
from torch import Tensor

from lbae import presets
from lbae.config import Bottleneck, Config
from lbae.core.network import LatentBernoulliAutoencoder
from lbae.core.training import Epoch
from lbae.distributed.probe import reached
from lbae.distributed.session import (
    RUNS_A_NETWORK,
    cluster_cpus,
    cluster_gpus,
    root_cause,
    session,
    start_meter,
    wait_for,
    watched,
)
from lbae.distributed.stream import dataset
from lbae.distributed.worker import ROWS, STATE, FeedKind, Settings, work
from lbae.errors import LbaeError, UserError
from lbae.io import artifact
from lbae.io import model as model_io
from lbae.io import source as image_source
from lbae.io.storage import absolute, resolve
from lbae.report.progress import ProgressLine

_RUN = "run"  # Ray Train's folder in the storage
_IDENTITY = "run.json"
_BOARD = "tensorboard"
_RESTARTS = 3
_RESIDENT_SHARE = 0.25  # of the cluster's memory: decoding holds the images about twice


def train(
    *,
    data: str,
    out: str,
    preset: str,
    recipe: presets.Recipe = "modern",
    bottleneck: Bottleneck | None = None,
    epochs: int | None = None,
    workers: int | None = None,
    min_workers: int | None = None,
    storage: str | None = None,
    latent_dim: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    seed: int | None = None,
    feed: Literal["auto", "resident", "streaming"] = "auto",
    keep: int = 1,
    kind: image_source.Kind | None = None,
    max_bad_fraction: float = 0.01,
    overwrite: bool = False,
    address: str | None = None,
) -> dict[str, Any]:
    """Train an LBAE on images and publish the model.

    Args:
        data: image table (Parquet), WebDataset tars, folder of images, or torchvision:mnist, cifar10, celeba.
        out: URI of the model artifact.
        preset: demo, mnist, cifar10, celeba, celeba128 or celeba256.
        recipe: modern, or the original code's optimiser settings: paper.
        bottleneck: bernoulli, or a baseline of as many bits: continuous (N // 32 real numbers) or gaussian (a VAE's).
        epochs: passes over the images; the preset's when not given.
        workers: training processes; one a GPU, or one when there is no GPU.
        min_workers: go on with as few when nodes are lost, and with more when they are back; else wait for all.
        storage: URI for checkpoints and TensorBoard, shared by all nodes; beside ``out`` when not given.
        latent_dim: N, bits of the latent; the preset's when not given.
        batch_size: global batch, over all workers; the preset's when not given.
        learning_rate: peak learning rate; the preset's when not given.
        seed: seed of weights and shuffling.
        feed: images resident in the workers' memory, or streaming from Ray Data; by default what their size asks for.
        keep: checkpoints kept, the best ones by validation; the newest is kept as well.
        kind: table, tars or files: what ``data`` is, when its files' names (.parquet, .tar) do not say so.
        max_bad_fraction: share of undecodable images above which the job fails.
        overwrite: replace another artifact at ``out``.
        address: Ray cluster to join; found or started when not given.
    """
    chosen = {"bottleneck": bottleneck, "epochs": epochs, "latent_dim": latent_dim, "batch_size": batch_size}
    config = presets.get(preset, recipe).replace(**chosen, learning_rate=learning_rate, seed=seed)
    images = image_source.plan(data, kind)
    parents = {"data": images.fingerprint}
    for name, value in (("workers", workers), ("min_workers", min_workers), ("keep", keep)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; allowed: 1 or more")
    with session(address):
        chosen_feed, sizes = _feed(images, config, feed)
        count = _workers(workers, config)
        scaling = _scaling(count, min_workers, chosen_feed)
        run = {"workers": count, "feed": chosen_feed}
        done = artifact.begin(out, model_io.KIND, parents, {**config.to_dict(), **run}, overwrite)
        if done:
            return done
        reached([images.uri], [out, storage or out])
        started = time.monotonic()
        folder = absolute(storage or f"{absolute(out)}-checkpoints")
        _claim(folder, {"parent": parents, **config.to_dict(), **run}, overwrite)
        print(f"feed: {chosen_feed} ({sizes})", file=sys.stderr)
        settings = Settings(
            config=config,
            source=images,
            feed=chosen_feed,
            max_bad_fraction=max_bad_fraction,
            board=str(resolve(folder) / _BOARD),
            meter=start_meter(),
        )
        weights, metrics = _run(settings, scaling, folder, keep)
        network = LatentBernoulliAutoencoder(config.model)
        network.load_state_dict(weights)
        result = {**_result(metrics, config), "seconds": round(time.monotonic() - started, 1)}
        return model_io.save_model(out, network, config, parents=parents, run=run, result=result)


def _result(metrics: dict[str, Any], config: Config) -> dict[str, Any]:
    """What the artifact says of the run: the best epoch, whose weights it holds, and all others."""
    best = min((Epoch(**epoch) for epoch in metrics["history"]), key=lambda epoch: epoch.criterion)
    return {
        **{name: metrics[name] for name in ("images", "bad", "images_per_second", "device", "precision")},
        "best_epoch": best.number,
        "train_loss": best.train_loss,
        "validation_loss": best.validation_loss,
        "history": metrics["history"],
        "loss": config.train.loss,
    }


def _feed(images: image_source.Source, config: Config, asked: str) -> tuple[FeedKind, str]:
    """What was asked for, else resident where the decoded images take little of the cluster's memory; and the sizes."""
    size, memory = images.rows * math.prod(config.model.image_shape), ray.cluster_resources().get("memory", 0)
    kind: FeedKind = "streaming" if asked == "streaming" or size > _RESIDENT_SHARE * memory else "resident"
    if asked == "resident":
        kind = "resident"
    return kind, f"{size / 2**20:,.0f} MiB decoded, {memory / 2**20:,.0f} MiB of memory"


def _claim(folder: str, identity: dict[str, Any], overwrite: bool) -> None:
    """Mark a storage as this run's; UserError when it holds another run, whose checkpoints would not fit."""
    location = resolve(folder)
    if overwrite:
        location.remove()
    try:
        if (location / _IDENTITY).exists():
            other = json.loads((location / _IDENTITY).read_bytes())
            if changed := artifact.changes(other, identity):
                raise UserError(
                    f"storage {folder} holds checkpoints of another run ({changed}); give the same options to continue it,"
                    " another --storage, or --overwrite"
                )
        (location / _IDENTITY).write_bytes(json.dumps(identity, indent=2).encode())
    except OSError as error:
        raise LbaeError(f"storage {folder} cannot be written: {error}") from error


def _workers(asked: int | None, config: Config) -> int:
    """How many workers; UserError when the cluster has too little for those asked for, or the batch cannot be shared."""
    gpus = cluster_gpus()
    count = asked or max(1, gpus)
    if config.train.batch_size % count:
        raise UserError(f"batch_size {config.train.batch_size} is not a multiple of {count} workers; change one of them")
    wait_for(count, "GPU" if gpus else "CPU", "lower --workers")
    return count


def _scaling(count: int, least: int | None, feed: FeedKind) -> ray.train.ScalingConfig:
    """The workers, and what each of them gets; UserError when the least is more than all."""
    if least is not None and least > count:
        raise UserError(f"min_workers is {least}; allowed: 1 to the {count} workers")
    gpus = cluster_gpus()
    # Tasks that decode a stream need CPUs beside the workers, or nobody would ever get an image.
    share = {"CPU": 1.0 if feed == "resident" or count < cluster_cpus() else 0.5}
    if gpus:
        share["GPU"] = 1
    workers = count if least in (None, count) else (least, count)
    return ray.train.ScalingConfig(num_workers=workers, use_gpu=bool(gpus), resources_per_worker=share)


def _run(
    settings: Settings, scaling: ray.train.ScalingConfig, folder: str, keep: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Run the workers; the weights of the best epoch, and the metrics of the newest."""
    images, config = settings.source, settings.config
    trainer = ray.train.torch.TorchTrainer(
        work,
        train_loop_config={"settings": settings},
        scaling_config=scaling,
        datasets={ROWS: dataset(images, config)} if settings.feed == "streaming" else None,
        run_config=ray.train.RunConfig(
            name=_RUN,
            storage_path=folder,
            worker_runtime_env=RUNS_A_NETWORK,
            failure_config=ray.train.FailureConfig(max_failures=_RESTARTS),
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=keep, checkpoint_score_attribute="loss", checkpoint_score_order="min"
            ),
        ),
    )
    failures: dict[int, Exception] = {}
    with ProgressLine("train", config.train.epochs * images.rows, "images") as line, watched(settings.meter, line):
        try:
            result = trainer.fit()
        except TrainingFailedError as error:
            failures = getattr(error, "worker_failures", None) or {0: error}
    if failure := ray.get(settings.meter.failure.remote()):
        raise failure
    if failures:
        raise root_cause(next(iter(failures.values())))
    if result.checkpoint is None:
        raise LbaeError(f"training ended without a checkpoint in {folder}")
    with result.get_best_checkpoint("loss", "min").as_directory() as path:
        state = torch.load(Path(path, STATE), weights_only=True, map_location="cpu")
    return state["network"], result.metrics
