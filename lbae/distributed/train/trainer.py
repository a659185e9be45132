"""Training as a Ray Train job: data-parallel workers, a checkpoint an epoch, a published model at the end."""

import math
import os
import time
from pathlib import Path
from typing import Any, Literal

import ray
import ray.train
import ray.train.torch
import torch
from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError
from torch import Tensor

from lbae import log, presets
from lbae.config import Bottleneck, Config
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.network.training import Epoch
from lbae.distributed.cluster.session import (
    RUNS_A_NETWORK,
    cluster_cpus,
    cluster_gpus,
    nodes,
    root_cause,
    session,
    start_meter,
    wait_for,
    wait_for_gpus,
    watched,
)
from lbae.distributed.cluster.storage_check import reached
from lbae.distributed.train.stream import dataset
from lbae.distributed.train.worker import ROWS, STATE, FeedKind, Settings, no_room, work
from lbae.errors import LbaeError, UserError
from lbae.io.artifacts import model_artifact as model_io
from lbae.io.artifacts import output as artifact
from lbae.io.artifacts.checkpoints import claim, known_run, storage_of
from lbae.io.sources.plan import Kind, plan
from lbae.io.sources.source import Source
from lbae.io.storage.location import arrow_filesystem, resolve
from lbae.io.storage.lock import locked
from lbae.report.progress import ProgressLine

_RUN = "run"  # Ray Train's folder in the storage
_BOARD = "tensorboard"
_RESTARTS = 3
_STARTS = 9  # further tries to start workers, each for RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S, by default a minute
# Seconds between two looks of Ray Train at its workers, by default 2: a worker that reports waits for the next one, so on a
# GPU, which needs less for an epoch of 50,000 small images, every epoch took that long.
_LOOKS = ("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
_RESIDENT_SHARE = 0.25  # of the memory of the workers' nodes: decoding holds the images about twice


def train(
    *,
    data: str,
    out: str,
    preset: str,
    test_data: str | None = None,
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
    kind: Kind | None = None,
    max_bad_fraction: float = 0.01,
    overwrite: bool = False,
    gpus: int | None = None,
    address: str | None = None,
) -> dict[str, Any]:
    """Train an LBAE on images and publish the model.

    Args:
        data: image table (Parquet), WebDataset tars, folder of images, or torchvision:mnist, cifar10, celeba.
        out: URI of the model artifact.
        preset: demo, mnist, cifar10, celeba, celeba128 or celeba256.
        test_data: images whose loss is measured after every epoch and decides nothing.
        recipe: modern, or the original code's optimiser settings: paper.
        bottleneck: bernoulli, or a baseline of as many bits: continuous (N // 32 real numbers) or gaussian (a VAE's).
        epochs: passes over the images; the preset's when not given.
        workers: training processes; one a GPU, or one when there is no GPU.
        min_workers: go on with as few when nodes are lost, and with more when they are back; else wait for all. With fewer
            the run waits, without an end, for nodes. A batch that they cannot share evenly is smaller by the rest.
        storage: URI for checkpoints and TensorBoard, a folder of this run's own, shared by all nodes; else beside ``out``.
        latent_dim: N, bits of the latent; the preset's when not given.
        batch_size: global batch, over all workers; the preset's when not given.
        learning_rate: peak learning rate; the preset's when not given.
        seed: seed of weights and shuffling.
        feed: images resident in the workers' memory, or streaming from Ray Data; by default what their size asks for.
        keep: checkpoints kept, the best ones by validation; the newest is kept as well.
        kind: table, tars or files: what ``data`` is, when its files' names (.parquet, .tar) do not say so.
        max_bad_fraction: share of undecodable images above which the job fails.
        overwrite: replace another artifact at ``out``.
        gpus: GPUs that the cluster must have or get; without it whatever it has is used, perhaps none.
        address: Ray cluster to join; found or started when not given.
    """
    chosen = {"bottleneck": bottleneck, "epochs": epochs, "latent_dim": latent_dim, "batch_size": batch_size}
    config = presets.get(preset, recipe).replace(**chosen, learning_rate=learning_rate, seed=seed)
    images = plan(data, kind)
    test = plan(test_data, kind) if test_data else None
    parents = {"data": images.fingerprint, **({"test_data": test.fingerprint} if test else {})}
    inputs = images.folders | (test.folders if test else set())
    for name, value in (("workers", workers), ("min_workers", min_workers), ("keep", keep)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; allowed: 1 or more")
    folder = storage_of(storage, out)
    with locked(folder) as still_held, session(address):
        before = {} if overwrite else known_run(out, folder)
        finished = (resolve(out) / artifact.MANIFEST).exists()
        if gpus is not None and (overwrite or not finished):
            wait_for_gpus(gpus)
        count = workers or before.get("workers") or max(1, cluster_gpus())
        chosen_feed, sizes = _feed(images, config, before.get("feed", feed) if feed == "auto" else feed, count)
        run = {"workers": count, "feed": chosen_feed}
        _check_workers(count, min_workers, config, chosen_feed)
        if overwrite or not finished:
            remedy = "lower --workers" if workers else f"--min-workers goes on with fewer of the run's {count}"
            wait_for(min_workers or count, "GPU" if cluster_gpus() else "CPU", remedy)
        place = (out, model_io.KIND, parents, {**config.to_dict(), **run}, overwrite, inputs)
        if done := artifact.finished(*place):
            return done
        reached([images.uri, test.uri if test else None], [out, folder])
        started = time.monotonic()
        scaling = _scaling(count, min_workers, chosen_feed)
        claim(folder, {"parent": parents, **config.to_dict(), **run}, overwrite, anew=overwrite and finished)
        artifact.begin(*place)
        log.say(f"feed: {chosen_feed} ({sizes})")
        settings = Settings(
            config=config,
            source=images,
            test=test,
            feed=chosen_feed,
            max_bad_fraction=max_bad_fraction,
            board=str(resolve(folder) / _BOARD),
            meter=start_meter(),
        )
        weights, metrics = _run(settings, scaling, folder, keep)
        still_held()
        # Where a run with another storage was published meanwhile, it stays, and this one in its checkpoints.
        if done := artifact.finished(*place[:4], False, inputs):
            return done
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


def _feed(images: Source, config: Config, asked: str, workers: int) -> tuple[FeedKind, str]:
    """What was asked for, else resident where decoded images take little of the workers' nodes' memory; and the sizes."""
    size, memory = images.rows * math.prod(config.model.image_shape), _workers_memory(workers)
    sizes = f"{size / 2**20:,.0f} MiB decoded, {memory / 2**20:,.0f} MiB of memory"
    if asked == "streaming" or (asked == "auto" and size > _RESIDENT_SHARE * memory):
        return "streaming", sizes
    return "resident", sizes


def _workers_memory(workers: int) -> float:
    """Bytes of the nodes that hold the workers: as few as can, for Ray Train packs them."""
    kind, memory, room = ("GPU" if cluster_gpus() else "CPU"), 0.0, 0.0
    for node in sorted(nodes(), key=lambda node: -node.get(kind, 0)):
        if room < workers:
            room, memory = room + node.get(kind, 0), memory + node.get("memory", 0)
    return memory


def _check_workers(count: int, least: int | None, config: Config, feed: FeedKind) -> None:
    """UserError when the batch cannot be shared by the workers, the least is more than all, or none could decode."""
    if config.train.batch_size % count:
        raise UserError(f"batch_size {config.train.batch_size} is not a multiple of {count} workers; change one of them")
    if least is not None and least > count:
        raise UserError(f"min_workers is {least}; allowed: 1 to the {count} workers")
    if least not in (None, count) and feed == "streaming" and not cluster_gpus():
        raise UserError(
            f"min_workers is {least} of {count} and the feed is streaming: without GPUs workers that start later take the"
            " CPUs that decode the stream; give --feed resident, or leave --min-workers out"
        )


def _scaling(count: int, least: int | None, feed: FeedKind) -> ray.train.ScalingConfig:
    """The workers, and what each of them gets."""
    gpus = cluster_gpus()
    # Tasks that decode a stream need CPUs beside the workers, or nobody would ever get an image.
    share = {"CPU": 1.0 if feed == "resident" or count < cluster_cpus() else 0.5}
    if gpus:
        share["GPU"] = 1
    workers = count if least in (None, count) else (least, count)
    return ray.train.ScalingConfig(num_workers=workers, use_gpu=bool(gpus), resources_per_worker=share)


class _Trainer(ray.train.torch.TorchTrainer):  # type: ignore[misc]
    def _register_sigint_handler(self, controller: Any) -> None:
        """None: Ray Train's ends the process with exit code 1 and without a word; a job says that it was interrupted."""


class _NoRestart(ray.train.UserCallback):  # type: ignore[misc]
    """Ends a run in Ray Train's controller when workers have told what starting them again would not mend.

    Ray Train (2.60) starts workers again after every error of theirs, but not after one of the controller.
    """

    def __init__(self, meter: Any) -> None:
        self._meter = meter

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        if told := ray.get(self._meter.failure.remote()):
            raise told


def _run(
    settings: Settings, scaling: ray.train.ScalingConfig, folder: str, keep: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Run the workers; the weights of the best epoch, and the metrics of the newest."""
    images, config = settings.source, settings.config
    filesystem, place = arrow_filesystem(folder)
    os.environ.setdefault(*_LOOKS)
    elastic = isinstance(scaling.num_workers, tuple)  # then nodes are meant to be lost
    restarts = max(_RESTARTS, config.train.epochs) if elastic else _RESTARTS
    trainer = _Trainer(
        work,
        train_loop_config={"settings": settings},
        scaling_config=scaling,
        datasets={ROWS: dataset(images, config)} if settings.feed == "streaming" else None,
        run_config=ray.train.RunConfig(
            name=_RUN,
            storage_path=place,
            storage_filesystem=filesystem,
            worker_runtime_env=RUNS_A_NETWORK,
            callbacks=[_NoRestart(settings.meter)],
            failure_config=ray.train.FailureConfig(max_failures=restarts, controller_failure_limit=_STARTS),
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=keep, checkpoint_score_attribute="loss", checkpoint_score_order="min"
            ),
        ),
    )
    failure: Exception | None = None
    with ProgressLine("train", config.train.epochs * images.rows, "images") as line, watched(settings.meter, line):
        try:
            result = trainer.fit()
        except (TrainingFailedError, RayActorError) as error:
            failure = error
    if told := ray.get(settings.meter.failure.remote()):
        raise told
    if failure:
        raise _explained(failure, scaling, folder)
    if result.checkpoint is None:
        raise LbaeError(f"training ended without a checkpoint in {folder}")
    with result.get_best_checkpoint("loss", "min").as_directory() as path:
        state = torch.load(Path(path, STATE), weights_only=True, map_location="cpu")
    return state["network"], result.metrics


def _explained(error: Exception, scaling: ray.train.ScalingConfig, folder: str) -> LbaeError:
    """What ended a training run, from the first worker that failed or from Ray Train's controller."""
    if isinstance(error, RayActorError):
        if error.actor_init_failed:
            return LbaeError(
                f"the checkpoints in {folder}/{_RUN} cannot be read ({root_cause(error)}); restore that folder, or begin"
                " anew: remove it, or give another --storage"
            )
        return LbaeError(f"Ray Train's controller died ({root_cause(error)}); the same command goes on from {folder}")
    if isinstance(error, ControllerError):
        failed = error.controller_failure  # which Ray Train only tries to mend where workers do not start
        if not isinstance(failed, WorkerGroupStartupFailedError | WorkerGroupStartupTimeoutError):
            return no_room(failed, folder) or root_cause(failed)
        return LbaeError(
            f"{scaling.num_workers} workers of {scaling.resources_per_worker} did not start in {_STARTS + 1} tries; the"
            f" cluster has {cluster_cpus()} CPUs and {cluster_gpus()} GPUs, which others may hold: lower --workers, or try"
            f" again later ({str(failed).splitlines()[0]})"
        )
    workers: dict[int, Exception] = getattr(error, "worker_failures", None) or {}
    return root_cause(next(iter(workers.values()), error))
