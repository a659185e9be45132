"""Training with Ray Train: data-parallel workers, checkpoints, and restarts of lost workers."""

import logging
import math
import os
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.exceptions import RayActorError
from ray.train import ControllerError, TrainingFailedError
from torch import Tensor

from lbae.config import Config
from lbae.distributed.cluster.device import gpus_are_pretended
from lbae.distributed.cluster.failures import root_cause
from lbae.distributed.cluster.meter import watched
from lbae.distributed.cluster.ray_private import without_sigint_handler
from lbae.distributed.cluster.resources import cluster_cpus, cluster_gpus, nodes
from lbae.distributed.cluster.torch_env import TORCH_RUNTIME_ENV
from lbae.distributed.train.restarts import RestartLimit
from lbae.distributed.train.streamed_images import streamed_images
from lbae.distributed.train.worker import FeedKind, Settings, work, worker_failure
from lbae.errors import LbaeError, UserError
from lbae.io.artifacts.training_checkpoint import load_network
from lbae.io.sources.source import Source
from lbae.io.storage.location import arrow_filesystem
from lbae.report.progress import ProgressLine

_logger = logging.getLogger(__name__)

_RUN = "run"  # Ray Train's folder inside the storage of a run
# Seconds between polls of the workers by Ray Train, by default 2. A worker that reports waits for the next
# poll, and on a GPU an epoch of 50,000 small images takes less than 2 seconds.
_LOOKS = ("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
_LEAST_SHARE = 32  # images of a batch per worker: on CPUs, BatchNorm sees only the worker's own images
_RESIDENT_SHARE = 0.25  # of the memory of the workers' nodes; decoding holds about two copies of the images


def choose_feed(images: Source, config: Config, asked: str, workers: int) -> tuple[FeedKind, str]:
    """Return the feed, and a text with the sizes that decide it.

    ``auto`` is resident if the decoded images take at most a quarter of the memory of the workers' nodes.
    """
    size, memory = images.rows * math.prod(config.model.image_shape), _workers_memory(workers)
    sizes = f"{size / 2**20:,.0f} MiB decoded, {memory / 2**20:,.0f} MiB of memory"
    if asked == "streaming" or (asked == "auto" and size > _RESIDENT_SHARE * memory):
        return "streaming", sizes
    return "resident", sizes


def _workers_memory(workers: int) -> float:
    """Memory in bytes of the fewest nodes that can hold the workers, because Ray Train packs them."""
    kind, memory, room = ("GPU" if cluster_gpus() else "CPU"), 0.0, 0.0
    for node in sorted(nodes(), key=lambda node: -node.get(kind, 0)):
        if room < workers:
            room, memory = room + node.get(kind, 0), memory + node.get("memory", 0)
    return memory


def default_workers(config: Config, rows: int) -> int:
    """The default number of workers: one per GPU, or without GPUs at most one per CPU.

    Without GPUs, the number divides the batch size and gives each worker at least 32 images of a batch and 32
    of the source. A worker on CPUs runs torch on one thread (docs/measurements.md).
    """
    if gpus := cluster_gpus():
        return gpus
    batch = config.train.batch_size
    most = min(cluster_cpus(), batch // _LEAST_SHARE, rows // _LEAST_SHARE)
    return max((count for count in range(2, most + 1) if batch % count == 0), default=1)


def check_workers(count: int, least: int | None, config: Config, feed: FeedKind) -> None:
    """Raise UserError unless ``count`` workers share a batch evenly, and ``least`` (if given) is possible.

    ``least`` is at most ``count``. With a streaming feed on CPUs the two must be equal, because workers that
    start later would take the CPUs that decode.
    """
    if config.train.batch_size % count:
        raise UserError(
            f"batch_size {config.train.batch_size} is not a multiple of {count} workers; change one of them"
        )
    if config.train.compiled and count > 1:
        raise UserError(f"compiled training runs on one worker, not {count}; give --workers 1")
    if least is not None and least > count:
        raise UserError(f"min_workers is {least}; allowed: 1 to the {count} workers")
    if least not in (None, count) and feed == "streaming" and not cluster_gpus():
        raise UserError(
            f"min_workers is {least} of {count} and the feed is streaming: without GPUs, workers that start"
            " later would take the CPUs that decode the stream; give --feed resident, or omit --min-workers"
        )


def scaling_of(count: int, least: int | None, feed: FeedKind) -> ray.train.ScalingConfig:
    """Ray Train's scaling: the number of workers, and the resources of each."""
    gpus = cluster_gpus()
    # Tasks that decode a stream need CPUs too; if workers held them all, no image would ever arrive.
    share = {"CPU": 1.0 if feed == "resident" or count < cluster_cpus() else 0.5}
    if gpus:
        share["GPU"] = 1
    workers = count if least in (None, count) else (least, count)
    return ray.train.ScalingConfig(num_workers=workers, use_gpu=bool(gpus), resources_per_worker=share)


def run_workers(
    settings: Settings, scaling: ray.train.ScalingConfig, folder: str, keep: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Run the workers, and return the weights of the best epoch and the metrics of the newest."""
    images, config = settings.source, settings.config
    filesystem, place = arrow_filesystem(folder)
    os.environ.setdefault(*_LOOKS)
    trainer = without_sigint_handler(ray.train.torch.TorchTrainer)(
        work,
        train_loop_config={"settings": settings},
        scaling_config=scaling,
        torch_config=ray.train.torch.TorchConfig(backend="gloo" if gpus_are_pretended() else None),
        datasets=streamed_images(images, config) if settings.feed == "streaming" else None,
        run_config=ray.train.RunConfig(
            name=_RUN,
            storage_path=place,
            storage_filesystem=filesystem,
            worker_runtime_env=TORCH_RUNTIME_ENV,
            callbacks=[RestartLimit(settings.meter, scaling)],
            failure_config=ray.train.FailureConfig(max_failures=-1, controller_failure_limit=-1),
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
        raise _explained(stopped, folder)
    if result.checkpoint is None:
        raise LbaeError(f"training ended without a checkpoint in {folder}")
    if restarts := ray.get(settings.meter.restarts.remote()):
        _logger.info(f"lost workers were restarted {restarts} times, from the newest checkpoint each time")
    with result.get_best_checkpoint("loss", "min").as_directory() as path:
        return load_network(Path(path)), result.metrics


def _explained(error: Exception, folder: str) -> LbaeError:
    """The error that ended a training run: of the first worker that failed, or of Ray Train's controller."""
    if isinstance(error, RayActorError):
        if error.actor_init_failed:
            return LbaeError(
                f"the checkpoints in {folder}/{_RUN} cannot be read ({root_cause(error)}); restore that"
                f" folder, or start over: remove it, or give another --storage"
            )
        return LbaeError(
            f"Ray Train's controller died ({root_cause(error)}); run the same command again to resume from"
            f" {folder}"
        )
    if isinstance(error, ControllerError):  # one that Ray Train does not retry, such as of RestartLimit
        return worker_failure(error.controller_failure, folder)
    workers: dict[int, Exception] = getattr(error, "worker_failures", None) or {}
    return root_cause(next(iter(workers.values()), error))
