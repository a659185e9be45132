"""Copy any image source into an image table of Parquet files."""

import time
from collections.abc import Callable
from typing import Any

from lbae.distributed.cluster.session import session
from lbae.distributed.cluster.storage_check import check_storage
from lbae.distributed.cluster.tasks import answered, outcomes, over
from lbae.io.artifacts import image_parts as parts_io
from lbae.io.artifacts import image_table
from lbae.io.artifacts.output import Output
from lbae.io.sources.decode import check_bad_share
from lbae.io.sources.plan import plan
from lbae.io.sources.source import Shard, Source
from lbae.io.storage.location import absolute
from lbae.io.storage.lock import locked
from lbae.jobs.options import Address, BadFraction, Overwrite, SourceKind
from lbae.report.progress import ProgressLine


def ingest(
    *,
    source: str,
    out: str,
    distinct: bool = False,
    kind: SourceKind = None,
    max_bad_fraction: BadFraction = 0.01,
    overwrite: Overwrite = False,
    address: Address = None,
) -> dict[str, Any]:
    """Copy any image source into an image table: Parquet files of about 256 MB. A killed job resumes.

    Args:
        source: folder of images, WebDataset tars, image table, or torchvision:mnist, cifar10, celeba.
        out: URI of the image table.
        distinct: keep the first of images with equal bytes, and count the others; reads the source twice.
    """
    images = plan(source, kind)
    images.check_output(out)
    output = Output(
        out,
        image_table.KIND,
        parents={"source": images.fingerprint},
        config={"distinct": True} if distinct else {},
        inputs=images.folders,
        resume_key=parts_io.CUT,
        overwrite=overwrite,
    )
    with locked(out) as still_held:
        done = output.existing()
        if not done:
            with session(address):
                check_storage([images.uri], [out])
                output.begin()
                done = _written(images, output, still_held)
    check_bad_share(source, done["bad"], done["rows"] + done["bad"], max_bad_fraction, out)
    return done


def _written(images: Source, output: Output, still_held: Callable[[], None]) -> dict[str, Any]:
    """Write the parts that are missing, and publish the table."""
    started = time.monotonic()
    out, distinct = absolute(output.uri), "distinct" in output.config
    shards = _distinct(images, still_held) if distinct else images.shards
    wanted = sum(shard.wanted for shard in shards)

    def write(row: dict[str, Any]) -> dict[str, Any]:
        return answered(
            row,
            lambda plan: parts_io.ingest_part(out, *plan),
            lambda plan: f"writing part {plan[0]} from {plan[1][0]} and what follows",
        )

    parts = []
    with ProgressLine("ingest", wanted, "images") as line:
        for part in outcomes(over(parts_io.plan_image_parts(shards), write, num_cpus=1)):
            parts.append(part)
            line.update(line.done + part.rows + part.bad)
            still_held()
    still_held()
    facts = {"bad": sum(part.bad for part in parts), "seconds": round(time.monotonic() - started, 1)}
    facts |= {"columns": images.columns, **images.left_out}
    if distinct:
        facts["equal"] = images.rows - wanted
    return image_table.publish_images(output, parts, facts)


def _distinct(images: Source, still_held: Callable[[], None]) -> tuple[Shard, ...]:
    """The shards without images that have the bytes of one before them."""

    def look(row: dict[str, Any]) -> dict[str, Any]:
        return answered(
            row, lambda shard: (shard.index, parts_io.digests(shard)), lambda shard: f"reading {shard}"
        )

    found = {}
    with ProgressLine("compare", images.rows, "images") as line:
        for index, digests in outcomes(over(images.shards, look, num_cpus=1)):
            found[index] = digests
            line.update(line.done + len(digests))
            still_held()
    return parts_io.distinct(images.shards, [found[shard.index] for shard in images.shards])
