"""Copy images from any source into an image table of Parquet files."""

import time
from collections.abc import Callable
from typing import Any

from lbae.config import MOST_IMAGE_SIZE
from lbae.distributed.cluster.session import session
from lbae.distributed.cluster.storage_check import check_storage
from lbae.distributed.cluster.tasks import map_tasks, results, run_task
from lbae.distributed.digests.repeated_rows import RepeatedRows
from lbae.errors import UserError
from lbae.io.artifacts import image_table, ingest_parts
from lbae.io.artifacts.output import Output
from lbae.io.sources.decode import check_bad_share
from lbae.io.sources.plan import plan
from lbae.io.sources.source import Shard, Source, leaving_out
from lbae.io.sources.stored_size import StoredSize
from lbae.io.storage.location import absolute
from lbae.io.storage.lock import locked
from lbae.jobs.options import Address, BadFraction, OneOrMore, Overwrite, SourceKind
from lbae.report.progress import ProgressLine


def ingest(
    *,
    source: OneOrMore,
    out: str,
    size: int | None = None,
    grey: bool = False,
    distinct: bool = False,
    kind: SourceKind = None,
    max_bad_fraction: BadFraction = 0.01,
    overwrite: Overwrite = False,
    address: Address = None,
) -> dict[str, Any]:
    """Copy images from any source into an image table: Parquet files of about 256 MB.

    A killed job resumes when the same command is run again. Undecodable images go to the table's quarantine.

    Args:
        source: Images: Parquet, WebDataset tars, image files or torchvision:NAME.
            Its NAME is mnist, cifar10 or celeba; torchvision:NAME:test is the test split.
            Several are read as one, and keys then begin with the names of their sources: NAME of NAME=URI,
            else the last part of the path.
        out: URI of the image table to write.
        size: Store every image as N x N pixels, as a model of content size N decodes it.
            Training then decodes no large image in every epoch, and gives the same result.
            Models of a larger content size refuse the table. If omitted: the bytes are kept.
        grey: With --size, store one channel, for models of grey images; other models refuse the table.
        distinct: Keep only the first of several images with equal bytes, and count the others.
            This reads the source twice.
    """
    wanted = _wanted_size(size, grey)
    images = plan(source, kind)
    if wanted:
        images.check_stored(wanted.side, wanted.channels)
    images.check_output(out)
    output = Output(
        out,
        image_table.KIND,
        parents={"source": images.fingerprint},
        config={
            **({"distinct": True} if distinct else {}),
            **({"size": wanted.side, "channels": wanted.channels} if wanted else {}),
        },
        inputs=images.folders,
        resume_key=ingest_parts.PART_LIMITS,
        overwrite=overwrite,
    )
    with locked(out) as check_lock:
        done = output.existing()
        if not done:
            with session(address):
                check_storage(images.uris, [out])
                output.begin()
                done = _written(images, output, wanted, check_lock)
    check_bad_share(images.uri, done["bad"], done["rows"] + done["bad"], max_bad_fraction, out)
    return done


def _wanted_size(size: int | None, grey: bool) -> StoredSize | None:
    """The size at which to store images; UserError if ``size`` or ``grey`` cannot be."""
    if size is None:
        if grey:
            raise UserError("grey is given without size; give --size N, or omit --grey")
        return None
    if not 1 <= size <= MOST_IMAGE_SIZE:
        raise UserError(f"size is {size}; allowed: 1 to {MOST_IMAGE_SIZE} pixels, or omit it")
    return StoredSize(side=size, channels=1 if grey else 3)


def _written(
    images: Source, output: Output, size: StoredSize | None, check_lock: Callable[[], None]
) -> dict[str, Any]:
    """Write the missing parts and publish the table."""
    started = time.monotonic()
    out, distinct = absolute(output.uri), "distinct" in output.config
    shards = _distinct(images, check_lock) if distinct else images.shards
    wanted = sum(shard.rows_to_read for shard in shards)

    def write(row: dict[str, Any]) -> dict[str, Any]:
        return run_task(
            row,
            lambda plan: ingest_parts.ingest_part(out, plan[0], plan[1], size),
            lambda plan: f"writing part {plan[0]}, which begins with {plan[1][0]}",
        )

    parts = []
    with ProgressLine("ingest", wanted, "images") as line:
        for part in results(map_tasks(ingest_parts.plan_image_parts(shards, size), write, num_cpus=1)):
            parts.append(part)
            line.update(line.done + part.rows + part.bad)
            check_lock()
    check_lock()
    facts = {"bad": sum(part.bad for part in parts), "seconds": round(time.monotonic() - started, 1)}
    facts |= {"columns": images.columns, **images.skipped_result}
    if distinct:
        facts["equal"] = images.rows - wanted
    return image_table.publish_images(output, parts, facts)


def _distinct(images: Source, check_lock: Callable[[], None]) -> tuple[Shard, ...]:
    """The shards without images whose bytes equal those of an earlier image."""
    repeated = RepeatedRows(images.rows, distinct=True)
    with ProgressLine("compare", images.rows, "images") as line:
        repeated.add_each(
            images.shards,
            lambda shard: (ingest_parts.digests(shard), shard.start),
            lambda shard: f"reading {shard}",
            line,
            check_lock,
            in_tasks=True,
        )
    return leaving_out(images.shards, repeated.left_out(check_lock))
