"""One training worker: its images, the training loop, and its reports with checkpoints."""

import errno
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import ray
import ray.train
import torch
from ray.util.metrics import Gauge
from torch import Tensor

from lbae.config import Config, Precision
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.network.codec import best_precision
from lbae.core.network.compiled import Compiled
from lbae.core.network.feed import Feed, Resident
from lbae.core.network.training import TrainState, check_steps, initial_state, reconstruct, train
from lbae.distributed.cluster.failures import root_cause
from lbae.distributed.cluster.meter import Tally
from lbae.distributed.train.all_workers import least, own_device, sum_over_workers, totals
from lbae.distributed.train.checkpoint_pace import CheckpointPace
from lbae.distributed.train.data_parallel import as_worker, on_device
from lbae.distributed.train.resident_images import (
    count_trained,
    held_out_share,
    resident_share,
    test_images,
)
from lbae.distributed.train.streamed_images import epoch_parts, part_name
from lbae.distributed.train.streaming_feed import StreamingFeed
from lbae.errors import LbaeError, UserError, working_on
from lbae.io.artifacts.training_checkpoint import load_checkpoint, save_checkpoint
from lbae.io.sources.decode import check_bad_share
from lbae.io.sources.source import Source
from lbae.report.figures.tensorboard_events import log_epoch

FeedKind = Literal["resident", "streaming"]

# Losses of an epoch: the field of Epoch, and the name on the progress line.
_LOSSES = {"train_loss": "loss", "validation_loss": "held out", "test_loss": "test"}
_HELD_OUT = 10_000  # held-out images of a streaming run, over all workers
_WATCHED = 1024  # held-out images of worker 0 whose bits are checked after every epoch
_SHOWN = 16
# The loss that Ray Train ranks a checkpoint inside an epoch by: below every epoch's. Ray Train (2.60) would
# take one without a loss as the best, and cannot read an infinite loss from its own file.
_NO_LOSS = sys.float_info.max
# Of the memory that is free before training. Activations need the rest: by calculation, 16 GB for a batch of
# 512 images of 128 pixels at bfloat16.
_MOST_OF_A_GPU = 0.25


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the driver passes to its workers.

    ``board`` is the URI of the TensorBoard folder, ``checkpoint_s`` the time in seconds between checkpoints
    inside an epoch.
    """

    config: Config
    source: Source
    test: Source | None
    feed: FeedKind
    max_bad_fraction: float
    board: str
    checkpoint_s: float
    meter: Any


@dataclass(frozen=True, kw_only=True)
class Images:
    """A worker's feed and held-out images.

    Over all workers, ``rows`` is the total that bad images are counted against, and ``facts`` are reported.
    """

    feed: Feed
    held_out: Tensor
    rows: int
    facts: dict[str, Any]


def work(loop: dict[str, Settings]) -> None:
    """Run one worker. An error that a restart would repeat is recorded in the meter, which ends the run."""
    settings, rank = loop["settings"], ray.train.get_context().get_world_rank()
    try:
        with working_on(f"training as worker {rank}"):
            _work(settings)
    except Exception as error:
        cause = worker_failure(error, settings.board)
        if not cause.retry_may_succeed:
            ray.get(settings.meter.fail.remote(cause))
        raise


def worker_failure(error: BaseException, storage: str) -> LbaeError:
    """The error that ended a worker or Ray Train's controller, as one of the package's.

    A full disk gets a message of its own.
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LbaeError(
            f"no room for a checkpoint ({error}): the storage of {storage} or a worker's temporary folder is"
            f" full; earlier checkpoints are kept"
        )
    return root_cause(error)


def _work(settings: Settings) -> None:
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    config, meter = settings.config, settings.meter
    torch.set_num_threads(1)  # several would wait for each other at every layer (docs/measurements.md)
    device = own_device()
    images = (_resident if settings.feed == "resident" else _streamed)(settings, world)

    network = LatentBernoulliAutoencoder(config.model, torch.Generator().manual_seed(config.train.seed))
    network = on_device(network, device, world)
    stepped = as_worker(network, device, config.train.gradients)
    if config.train.compiled:
        stepped = Compiled(stepped, device)
    state = initial_state(network, config.train)
    reporter = _Reporter(settings, images, rank)
    reporter.restore(
        state
    )  # after the wrapper, which copies BatchNorm statistics from worker 0 to all others
    if rank == 0:
        done = len(state.history) + len(state.losses) / images.feed.steps
        progress = (round(epochs * reporter.images_per_epoch) for epochs in (done, config.train.epochs))
        ray.get(meter.set_progress.remote(*progress))
    tally = Tally(meter)

    def end_epoch(state: TrainState) -> None:
        tally.flush()
        reporter.report(state)

    train(
        state,
        stepped,
        images.feed,
        images.held_out,
        config.train,
        precision=reporter.precision,
        test=test_images(settings.test, config.model, settings.max_bad_fraction),
        worker=rank,
        sum_over_workers=sum_over_workers,
        on_step=tally.add,
        on_stop=reporter.stop,
        on_epoch=end_epoch,
    )


def _resident(settings: Settings, world: int) -> Images:
    """This worker's share of the images, decoded once; they lie on its GPU if they fit."""
    config, source, device = settings.config, settings.source, own_device()
    share, bad = resident_share(source, config.model, settings.max_bad_fraction)
    (trained,), smallest = totals(len(share.trained)), least(len(share.trained))
    batch = _batch(config, smallest, trained, world)
    images = torch.from_numpy(share.trained)
    if device.type == "cuda" and images.numel() < _MOST_OF_A_GPU * torch.cuda.mem_get_info(device)[0]:
        images = images.to(device)
    return Images(
        feed=Resident(images, batch, smallest // batch, config.train.seed),
        held_out=torch.from_numpy(share.held_out),
        rows=source.rows,
        facts={"images": trained, "bad": bad},
    )


def _streamed(settings: Settings, world: int) -> Images:
    """This worker's share of the stream, and of at most 10,000 held-out images, which are decoded once."""
    config, source = settings.config, settings.source
    unseen = held_out_share(source, config.model, _HELD_OUT)
    bad, looked_at = totals(unseen.bad, unseen.bad + len(unseen.held_out))
    parts = count_trained(epoch_parts(source, config))
    trained = sum(parts)
    batch = _batch(config, trained // world, trained, world)
    stream = StreamingFeed(
        [ray.train.get_dataset_shard(part_name(number)) for number in range(len(parts))],
        [part // world // batch for part in parts],
        config.model.image_shape,
        batch=batch,
        seed=config.train.seed,
        epochs=config.train.epochs,
        device=own_device(),
    )
    facts = {"images": trained, "bad": bad}
    held_out = torch.from_numpy(unseen.held_out)
    return Images(feed=stream, held_out=held_out, rows=trained + looked_at, facts=facts)


def _batch(config: Config, smallest: int, trained: int, world: int) -> int:
    if not smallest:
        raise UserError(f"{trained} training images are too few for {world} workers; lower --workers")
    return min(config.train.batch_size // world, smallest)


class _Reporter:
    """Reports every epoch to TensorBoard, Ray's metrics, and Ray Train with a checkpoint to resume from.

    A long epoch has checkpoints in between, which only Ray Train learns of.
    """

    def __init__(self, settings: Settings, images: Images, rank: int) -> None:
        device = own_device()
        self.precision: Precision = best_precision(device)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        self._facts = {**images.facts, "device": name, "precision": self.precision}
        self._settings, self._images, self._rank = settings, images, rank
        self.images_per_epoch = (
            images.feed.steps * images.feed.batch * ray.train.get_context().get_world_size()
        )
        self._gauges = {name: Gauge(f"lbae_{name}") for name in (*_LOSSES, "images_per_second")}
        self._pace = CheckpointPace(settings.checkpoint_s)
        self._since = time.monotonic()
        # Of the part of the first epoch that an earlier process has done.
        self._skipped_steps = self._skipped_bad = 0

    def restore(self, state: TrainState) -> None:
        """Resume from the newest checkpoint of this run, if there is one."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return
        world = ray.train.get_context().get_world_size()
        with checkpoint.as_directory() as path:
            self._skipped_bad = load_checkpoint(Path(path), state, self._images.feed, self._rank, world)
        self._skipped_steps = len(state.losses)

    def stop(self, state: TrainState) -> None:
        """Make a checkpoint inside the epoch, if one is due."""
        if self._pace.due():
            check_steps(state.losses, len(state.history), self._images.feed.steps)
            with TemporaryDirectory() as path:
                save_checkpoint(Path(path), state, self._images.feed, self._rank, self._bad())
                ray.train.report({"loss": _NO_LOSS}, checkpoint=ray.train.Checkpoint.from_directory(path))
            self._pace.saved()

    def report(self, state: TrainState) -> None:
        """Report the epoch that has just ended."""
        feed = self._images.feed
        if isinstance(feed, StreamingFeed):
            (missed,) = totals(self._bad())
            bad = self._images.facts["bad"] + missed
            check_bad_share(
                self._settings.source.uri, bad, self._images.rows, self._settings.max_bad_fraction
            )
            self._facts |= {"bad": bad, "images": self._images.facts["images"] - missed}
        now = time.monotonic()
        share = 1 - self._skipped_steps / feed.steps
        self._facts["images_per_second"] = round(share * self.images_per_epoch / (now - self._since), 1)
        self._since = now
        self._skipped_steps = self._skipped_bad = 0
        metrics = {
            **self._facts,
            "loss": state.history[-1].criterion,
            "history": [asdict(past) for past in state.history],
        }
        if self._rank:
            ray.train.report(metrics)
        else:
            self._show(state)
            with TemporaryDirectory() as path:
                save_checkpoint(Path(path), state, feed, self._rank)
                ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(path))
        self._pace.saved()

    def _bad(self) -> int:
        """This worker's undecodable images of the current epoch."""
        feed = self._images.feed
        return self._skipped_bad + (feed.bad if isinstance(feed, StreamingFeed) else 0)

    def _show(self, state: TrainState) -> None:
        epoch = state.history[-1]
        losses = {name: value for name in _LOSSES if (value := getattr(epoch, name)) is not None}
        note = ", ".join(f"{_LOSSES[name]} {value:.2f}" for name, value in losses.items())
        self._settings.meter.set_note.remote(f"epoch {epoch.number}, {note}")
        numbers = {**losses, "images_per_second": self._facts["images_per_second"]}
        for name, value in numbers.items():
            self._gauges[name].set(value)
        numbers["learning_rate"] = state.optimizer.param_groups[0]["lr"]
        latents = pairs = None
        if len(watched := self._images.held_out[:_WATCHED]):
            codes, images = reconstruct(state.network, watched, _SHOWN, precision=self.precision)
            pairs = watched[:_SHOWN].numpy(), images.cpu().numpy()
            if self._settings.config.model.bottleneck == "bernoulli":
                latents = codes.to(torch.int8).cpu().numpy()
        log_epoch(self._settings.board, epoch.number, numbers, latents, pairs)
