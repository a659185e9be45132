"""Training as a Ray Train job: data-parallel workers, one checkpoint per epoch, a published model."""

import math
import os
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.exceptions import RayActorError
from ray.train import ControllerError, TrainingFailedError
from torch import Tensor

from lbae.config import Config
from lbae.distributed.cluster.failures import root_cause
from lbae.distributed.cluster.meter import watched
from lbae.distributed.cluster.ray_private import without_sigint_handler, worker_start_failures
from lbae.distributed.cluster.resources import cluster_cpus, cluster_gpus, nodes
from lbae.distributed.cluster.torch_env import TORCH_RUNTIME_ENV
from lbae.distributed.train.streaming_feed import streamed_images
from lbae.distributed.train.worker import ROWS, STATE, FeedKind, Settings, work, worker_failure
from lbae.errors import LbaeError, UserError
from lbae.io.sources.source import Source
from lbae.io.storage.location import arrow_filesystem
from lbae.report.progress import ProgressLine

_RUN = "run"  # Ray Train's folder in the storage
_RESTARTS = 3
_STARTS = (
    9  # further tries to start workers, each for RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S, by default a minute
)
# Seconds between two looks of Ray Train at its workers, by default 2: a worker that reports waits for the
# next one, so on a GPU, which needs less for an epoch of 50,000 small images, every epoch took that long.
_LOOKS = ("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
_LEAST_SHARE = 32  # images of a batch: BatchNorm's statistics on CPUs are those of a worker's own images
_RESIDENT_SHARE = 0.25  # of the memory of the workers' nodes: decoding holds the images about twice


def choose_feed(images: Source, config: Config, asked: str, workers: int) -> tuple[FeedKind, str]:
    """Return the feed, and a text of the sizes that it was chosen by.

    ``auto`` is resident if the decoded images take little of the memory of the workers' nodes.
    """
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


def default_workers(config: Config, rows: int) -> int:
    """One worker per GPU. Without GPUs, one per CPU that gets an equal share of a batch, at least 32 images.

    A worker on CPUs runs torch on one thread (docs/results.md).
    """
    if gpus := cluster_gpus():
        return gpus
    batch = config.train.batch_size
    most = min(cluster_cpus(), batch // _LEAST_SHARE, rows // _LEAST_SHARE)
    return max((count for count in range(2, most + 1) if batch % count == 0), default=1)


def check_workers(count: int, least: int | None, config: Config, feed: FeedKind) -> None:
    """UserError if the workers cannot share the batch, or ``least`` is not possible.

    It is at most ``count``; with a streaming feed on CPUs, later workers would take those that decode.
    """
    if config.train.batch_size % count:
        raise UserError(
            f"batch_size {config.train.batch_size} is not a multiple of {count} workers; change one of them"
        )
    if least is not None and least > count:
        raise UserError(f"min_workers is {least}; allowed: 1 to the {count} workers")
    if least not in (None, count) and feed == "streaming" and not cluster_gpus():
        raise UserError(
            f"min_workers is {least} of {count} and the feed is streaming: without GPUs workers that start"
            " later take the CPUs that decode the stream; give --feed resident, or leave --min-workers out"
        )


def scaling_of(count: int, least: int | None, feed: FeedKind) -> ray.train.ScalingConfig:
    """The workers, and what each of them gets."""
    gpus = cluster_gpus()
    # Tasks that decode a stream need CPUs beside the workers, or nobody would ever get an image.
    share = {"CPU": 1.0 if feed == "resident" or count < cluster_cpus() else 0.5}
    if gpus:
        share["GPU"] = 1
    workers = count if least in (None, count) else (least, count)
    return ray.train.ScalingConfig(num_workers=workers, use_gpu=bool(gpus), resources_per_worker=share)


class _NoRestart(ray.train.UserCallback):  # type: ignore[misc]
    """Ends a run in Ray Train's controller when workers failed in a way that a restart would repeat.

    Ray Train (2.60) restarts workers after every error of theirs, but not after one of the controller.
    """

    def __init__(self, meter: Any) -> None:
        self._meter = meter

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        if failure := ray.get(self._meter.failure.remote()):
            raise failure


def run_workers(
    settings: Settings, scaling: ray.train.ScalingConfig, folder: str, keep: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Run the workers; the weights of the best epoch, and the metrics of the newest."""
    images, config = settings.source, settings.config
    filesystem, place = arrow_filesystem(folder)
    os.environ.setdefault(*_LOOKS)
    elastic = isinstance(scaling.num_workers, tuple)  # then nodes are meant to be lost
    restarts = max(_RESTARTS, config.train.epochs) if elastic else _RESTARTS
    trainer = without_sigint_handler(ray.train.torch.TorchTrainer)(
        work,
        train_loop_config={"settings": settings},
        scaling_config=scaling,
        datasets={ROWS: streamed_images(images, config)} if settings.feed == "streaming" else None,
        run_config=ray.train.RunConfig(
            name=_RUN,
            storage_path=place,
            storage_filesystem=filesystem,
            worker_runtime_env=TORCH_RUNTIME_ENV,
            callbacks=[_NoRestart(settings.meter)],
            failure_config=ray.train.FailureConfig(max_failures=restarts, controller_failure_limit=_STARTS),
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=keep, checkpoint_score_attribute="loss", checkpoint_score_order="min"
            ),
        ),
    )
    stopped: Exception | None = None
    with (
        ProgressLine("train", config.train.epochs * images.rows, "images") as line,
        watched(settings.meter, line),
    ):
        try:
            result = trainer.fit()
        except (TrainingFailedError, RayActorError) as error:
            stopped = error
    if failure := ray.get(settings.meter.failure.remote()):
        raise failure
    if stopped:
        raise _explained(stopped, scaling, folder)
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
                f"the checkpoints in {folder}/{_RUN} cannot be read ({root_cause(error)}); restore that"
                f" folder, or begin anew: remove it, or give another --storage"
            )
        return LbaeError(
            f"Ray Train's controller died ({root_cause(error)}); the same command goes on from {folder}"
        )
    if isinstance(error, ControllerError):
        failed = error.controller_failure  # Ray Train retries it only where workers do not start
        if not isinstance(failed, worker_start_failures()):
            return worker_failure(failed, folder)
        return LbaeError(
            f"{scaling.num_workers} workers of {scaling.resources_per_worker} did not start in {_STARTS + 1}"
            f" tries; the cluster has {cluster_cpus()} CPUs and {cluster_gpus()} GPUs, which others may hold:"
            f" lower --workers, or try again later ({str(failed).splitlines()[0]})"
        )
    workers: dict[int, Exception] = getattr(error, "worker_failures", None) or {}
    return root_cause(next(iter(workers.values()), error))
