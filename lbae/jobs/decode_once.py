"""Whether a pipeline stores its images at the model's content size before training, and how."""

import functools
import logging
import statistics
from typing import Any

import numpy as np

from lbae import presets
from lbae.config import Config
from lbae.distributed.train.trainer import choose_feed, default_workers
from lbae.errors import UserError
from lbae.io.artifacts.checkpoints import checkpoint_folder
from lbae.io.images import image_size
from lbae.io.sources.plan import plan
from lbae.io.sources.source import Source, read_batches
from lbae.io.sources.stored_size import StoredSize
from lbae.io.storage.location import resolve
from lbae.jobs.build.ingest import ingest

_logger = logging.getLogger(__name__)

# From this size on, decoding an original takes four times as long as a stored image or longer, so storing
# pays from the second epoch on (tests/benchmarks/test_ingest.py).
_TIMES_LARGER = 2
_SHARDS, _ROWS = 4, 16  # images whose headers are looked at


def ingest_first(
    wanted: bool | None, out: str, train: functools.partial[Any]
) -> functools.partial[dict[str, Any]] | None:
    """The call of ``ingest`` that stores the training images; None to train on the images as they are.

    Args:
        wanted: The pipeline's ``decode_once``. None decides by what is cheaper, but keeps to what a pipeline
            that ran before has begun.
        out: URI of the image table to write.
        train: The bound call of ``train``.

    Raises:
        UserError: ``wanted`` is True and the kind of the images is given.
    """
    given = train.keywords
    if wanted and "kind" in given:
        raise UserError(
            "decode_once is true and train.kind is given, which a stored table does not have; remove"
            " decode_once, or run `lbae ingest --size N --kind KIND` and give its table as data"
        )
    config = _config(given)
    size = StoredSize(side=config.model.content_size, channels=config.model.image_channels)
    if wanted is None:
        wanted = "kind" not in given and (
            resolve(out).exists() or (not _has_begun(given) and _pays(given, config))
        )
    if not wanted:
        return None
    _logger.info(
        f"decode once: {' '.join(given['data'])} is stored at {size} in {out}, and all stages read that table"
    )
    same = {name: given[name] for name in ("max_bad_fraction",) if name in given}
    return functools.partial(
        ingest, source=given["data"], out=out, size=size.side, grey=size.channels == 1, **same
    )


def _config(given: dict[str, Any]) -> Config:
    options = {name: given.get(name) for name in ("epochs", "batch_size")}
    return presets.get(given["preset"], given.get("recipe", "modern")).replace(**options)


def _has_begun(given: dict[str, Any]) -> bool:
    """Whether the training has begun, on the images as they are."""
    folder = checkpoint_folder(given.get("storage"), given["out"])
    return resolve(given["out"]).exists() or resolve(folder).exists()


def _pays(given: dict[str, Any], config: Config) -> bool:
    """Whether every epoch would decode images of twice the content size or more; the log says why."""
    images, side, epochs = plan(given["data"]), config.model.content_size, config.train.epochs
    workers = given.get("workers") or default_workers(config, images.rows)
    feed, sizes = choose_feed(images, config, given.get("feed", "auto"), workers)
    if images.stored:
        return _decided(False, f"the images are stored at {images.stored}")
    if feed == "resident":
        return _decided(False, f"training decodes each image once ({sizes})")
    if epochs < 2:
        return _decided(False, "training has one epoch")
    found = _shorter_side(images)
    text = f"the shorter side of the images is {found} pixels, the model's {side}, in {epochs} epochs"
    return _decided(found >= _TIMES_LARGER * side, text)


def _decided(pays: bool, why: str) -> bool:
    _logger.info(f"decode once: {'yes' if pays else 'no'}, because {why} (decode_once in the config decides)")
    return pays


def _shorter_side(images: Source) -> int:
    """Median of the shorter sides of some images from all over the source; 0 if none can be read."""
    shards = images.shards[:: -(-len(images.shards) // _SHARDS)]
    first = [shard.reading(np.arange(shard.rows) < _ROWS) for shard in shards]
    cells = [cell for shard in first for cell in next(read_batches(shard))["bytes"].to_pylist()]
    sides = [min(size) for cell in cells if (size := image_size(cell))]
    return statistics.median_low(sides) if sides else 0
