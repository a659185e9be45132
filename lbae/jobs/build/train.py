"""Train a model on images; checkpoints make a killed run resumable."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from lbae import presets
from lbae.config import Bottleneck, Config, Precision
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.network.training import Epoch
from lbae.distributed.cluster.meter import start_meter
from lbae.distributed.cluster.resources import cluster_gpus, wait_for, wait_for_gpus
from lbae.distributed.cluster.session import session
from lbae.distributed.cluster.storage_check import check_storage
from lbae.distributed.train.trainer import (
    check_workers,
    choose_feed,
    default_workers,
    run_workers,
    scaling_of,
)
from lbae.distributed.train.worker import FeedKind, Settings
from lbae.errors import UserError
from lbae.io.artifacts import model_artifact
from lbae.io.artifacts.checkpoints import BOARD, begin_run, checkpoint_folder, known_options
from lbae.io.artifacts.manifest import MANIFEST
from lbae.io.artifacts.output import Output
from lbae.io.sources.plan import plan
from lbae.io.sources.source import Source
from lbae.io.storage.location import resolve
from lbae.io.storage.lock import locked
from lbae.jobs.options import Address, BadFraction, Gpus, OneOrMore, Overwrite, SourceKind, Track
from lbae.report.tracking.service import tracking_service
from lbae.report.tracking.training import track_finished_training, tracked_training

_logger = logging.getLogger(__name__)


def train(
    *,
    data: OneOrMore,
    out: str,
    preset: str,
    test_data: OneOrMore | None = None,
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
    gradients: Precision | None = None,
    compiled: bool = False,
    feed: Literal["auto", "resident", "streaming"] = "auto",
    keep: int = 1,
    checkpoint_minutes: float = 10.0,
    kind: SourceKind = None,
    max_bad_fraction: BadFraction = 0.01,
    track: Track = None,
    overwrite: Overwrite = False,
    gpus: Gpus = None,
    address: Address = None,
) -> dict[str, Any]:
    """Train an LBAE on images and publish the weights of the epoch with the lowest validation loss.

    A killed run resumes from its newest checkpoint when the same command is run again.

    Args:
        data: Training images: Parquet, WebDataset tars, image files or torchvision:NAME.
            Its NAME is mnist, cifar10 or celeba; torchvision:NAME:test is the test split.
            Several are read as one, and keys then begin with the names of their sources: NAME of NAME=URI,
            else the last part of the path.
        out: URI of the model to write.
        preset: Network, image size and training settings.
            Allowed: demo, mnist, cifar10, celeba, celeba128, celeba256.
        test_data: Test images; their loss is reported after every epoch and has no effect on training.
        recipe: modern, or paper: the network, sizes and optimiser settings of the original code.
        bottleneck: bernoulli (bits), or a baseline of the same size: continuous or gaussian (a VAE).
            A baseline has N // 32 numbers and needs a preset with one global code:
            demo, mnist, or any preset with --recipe paper. If omitted: bernoulli.
        epochs: Passes over the images. If omitted: the preset's.
        workers: Training processes. If omitted: one per GPU; without GPUs one per CPU,
            or fewer, so that each gets 32 or more images of a batch.
        min_workers: Continue with this many workers when nodes are lost; grow again when they return.
            If the workers cannot share a batch evenly, its remainder is dropped.
            If omitted: wait for all workers.
        storage: URI of a folder for this run's checkpoints and TensorBoard events.
            All nodes must reach it, and no other run may use it.
            If omitted: OUT-checkpoints, beside --out.
        latent_dim: N, the number of bits per latent. If omitted: the preset's.
        batch_size: Images per step, over all workers; a multiple of their number. If omitted: the preset's.
            So another number of workers changes neither the batch nor the rate that suits it.
        learning_rate: Peak learning rate, above 0 and below 1. If omitted: the preset's.
        seed: Seed of weights and shuffling, 0 or more. If omitted: 0.
        gradients: Precision at which workers exchange gradients: float32, or bfloat16, which is half the
            bytes for networks slower than the GPUs. If omitted: float32.
        compiled: Run the steps of one worker as compiled code (torch.compile), on a GPU as CUDA graphs.
            Compiling takes about a minute and a C++ compiler, and losses differ by rounding.
        feed: resident keeps decoded images in memory; streaming decodes them anew every epoch.
            auto is resident if they take at most a quarter of the memory of the workers' nodes.
        keep: Number of checkpoints to keep, by lowest loss; the newest is kept as well.
        checkpoint_minutes: Minutes between checkpoints inside an epoch, above 0.
            There is one after every epoch, and one when the cluster announces the loss of a worker's node.
    """
    chosen = {"bottleneck": bottleneck, "epochs": epochs, "latent_dim": latent_dim, "batch_size": batch_size}
    config = presets.get(preset, recipe).replace(
        **chosen, learning_rate=learning_rate, seed=seed, gradients=gradients, compiled=compiled or None
    )
    service = tracking_service(track)
    images = plan(data, kind)
    test = plan(test_data, kind) if test_data else None
    for source in (images, test) if test else (images,):
        source.check_output(out, *([storage] if storage else []))
        source.check_stored(config.model.content_size, config.model.image_channels)
    parents = {"data": images.fingerprint, **({"test_data": test.fingerprint} if test else {})}
    inputs = images.folders | (test.folders if test else set())
    for name, value in (("workers", workers), ("min_workers", min_workers), ("keep", keep)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; allowed: 1 or more")
    if not checkpoint_minutes > 0:
        raise UserError(f"checkpoint_minutes is {checkpoint_minutes}; allowed: above 0")
    folder = checkpoint_folder(storage, out)
    with locked(folder) as check_lock, session(address):
        before = {} if overwrite else known_options(out, folder)
        finished = (resolve(out) / MANIFEST).exists()
        # A finished model is returned without waiting for nodes.
        trains = overwrite or not finished
        if trains and gpus is not None:
            wait_for_gpus(gpus)
        count, chosen_feed, sizes = _resolve_run(images, config, workers, min_workers, feed, before)
        if trains:
            fewer = f"--min-workers continues with fewer than the run's {count}"
            remedy = "lower --workers" if workers else fewer
            wait_for(min_workers or count, "GPU" if cluster_gpus() else "CPU", remedy)
        resolved = {**config.to_dict(), "workers": count, "feed": chosen_feed}
        output = Output(
            out, model_artifact.KIND, parents=parents, config=resolved, inputs=inputs, overwrite=overwrite
        )
        if done := output.existing():
            track_finished_training(service, folder, out)
            return done
        check_storage([*images.uris, *(test.uris if test else [])], [out, folder])
        begin_run(folder, {"parent": parents, **resolved}, overwrite, restart=overwrite and finished)
        output.begin()
        _logger.info(f"feed: {chosen_feed} ({sizes})")
        settings = Settings(
            config=config,
            source=images,
            test=test,
            feed=chosen_feed,
            max_bad_fraction=max_bad_fraction,
            board=str(resolve(folder) / BOARD),
            checkpoint_s=60 * checkpoint_minutes,
            meter=start_meter(),
        )
        with tracked_training(service, folder, out):
            return _train_and_publish(output, settings, count, min_workers, folder, keep, check_lock)


def _resolve_run(
    images: Source,
    config: Config,
    workers: int | None,
    min_workers: int | None,
    feed: Literal["auto", "resident", "streaming"],
    before: dict[str, Any],
) -> tuple[int, FeedKind, str]:
    """Workers, feed and the sizes that decided it: from the options, the resumed run, or else the cluster."""
    count = workers or before.get("workers") or default_workers(config, images.rows)
    asked = before.get("feed", feed) if feed == "auto" else feed
    chosen_feed, sizes = choose_feed(images, config, asked, count)
    check_workers(count, min_workers, config, chosen_feed)
    return count, chosen_feed, sizes


def _train_and_publish(
    output: Output,
    settings: Settings,
    workers: int,
    min_workers: int | None,
    folder: str,
    keep: int,
    check_lock: Callable[[], None],
) -> dict[str, Any]:
    """Train, and return the published model's result."""
    started, config = time.monotonic(), settings.config
    scaling = scaling_of(workers, min_workers, settings.feed)
    weights, metrics = run_workers(settings, scaling, folder, keep)
    check_lock()
    # A run with another --storage may have published to the same --out: keep its model.
    if done := replace(output, overwrite=False).existing():
        return done
    network = LatentBernoulliAutoencoder(config.model)
    network.load_state_dict(weights)
    seconds = round(time.monotonic() - started, 1)
    result = {**_result(metrics, config), **settings.source.skipped_result, "seconds": seconds}
    return model_artifact.save_model(output, network, config, result)


def _result(metrics: dict[str, Any], config: Config) -> dict[str, Any]:
    """What the manifest reports about the run: the published epoch, and the history of all epochs."""
    best = min((Epoch(**epoch) for epoch in metrics["history"]), key=lambda epoch: epoch.criterion)
    return {
        **{name: metrics[name] for name in ("images", "bad", "images_per_second", "device", "precision")},
        "best_epoch": best.number,
        "train_loss": best.train_loss,
        "validation_loss": best.validation_loss,
        "history": metrics["history"],
        "loss": config.train.loss,
    }
