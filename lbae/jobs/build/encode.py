"""Encode images into a table of bit-packed latents."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lbae.distributed.cluster.session import session
from lbae.distributed.cluster.storage_check import check_storage
from lbae.distributed.digests.repeated_rows import RepeatedRows
from lbae.distributed.encode.encoder import encode_parts
from lbae.distributed.encode.known_rows import known_rows
from lbae.io.artifacts import latent_parts
from lbae.io.artifacts.latent_table import KIND, LatentTable
from lbae.io.artifacts.model_artifact import load_network
from lbae.io.artifacts.output import Output
from lbae.io.sources.decode import check_bad_share
from lbae.io.sources.plan import plan
from lbae.io.sources.source import Shard, Source, leaving_out, with_table_columns
from lbae.io.storage.hub import pinned
from lbae.io.storage.location import absolute
from lbae.io.storage.lock import locked
from lbae.jobs.options import Address, BadFraction, Gpus, OneOrMore, Overwrite, SourceKind

_logger = logging.getLogger(__name__)


def encode(
    *,
    model: str,
    data: OneOrMore,
    out: str,
    append: bool = False,
    keep_images: bool = False,
    kind: SourceKind = None,
    max_bad_fraction: BadFraction = 0.01,
    overwrite: Overwrite = False,
    gpus: Gpus = None,
    address: Address = None,
) -> dict[str, Any]:
    """Encode images into a Parquet table of bit-packed latents.

    A killed job resumes when the same command is run again. Undecodable images go to the table's quarantine.

    Args:
        model: URI of the model.
        data: Images: Parquet, WebDataset tars, image files or torchvision:NAME.
            Its NAME is mnist, cifar10 or celeba; torchvision:NAME:test is the test split.
            Several are read as one, and keys then begin with the names of their sources: NAME of NAME=URI,
            else the last part of the path.
        out: URI of the latent table to write.
        append: Add only the images whose keys the existing table lacks, as its next generation.
        keep_images: Also store the image bytes, in the column image.
    """
    model = pinned(model)
    _, config, manifest = load_network(model)
    images = plan(data, kind)
    images.check_output(out)
    images.check_stored(config.model.content_size, config.model.image_channels)
    settings = {"latent_dim": config.model.latent_dim, "keep_images": keep_images}
    output = Output(
        out,
        KIND,
        parents={"model": manifest.fingerprint, "data": images.fingerprint},
        config=settings,
        inputs=[model, *images.folders],
        resume_key=latent_parts.PART_LIMITS,
        overwrite=overwrite,
    )
    with locked(out) as check_lock:
        existing_table, shards, known = None, images.shards, {}
        if append:
            existing_table = latent_parts.open_for_append(out, manifest, settings)
            output = replace(output, extends=existing_table.manifest)
            shards = _unknown_rows(images, existing_table, check_lock, address)
            known = _count_known(images, shards, existing_table)
            if not shards:
                return {**output.unchanged(), **known}
        elif done := output.existing():
            check_bad_share(images.uri, done["bad"], images.rows, max_bad_fraction, out)
            return done
        plans = latent_parts.plan_latent_parts(shards, keep_images, output.extends)
        started = time.monotonic()
        arguments = {"model": absolute(model), "out": absolute(out), "keep_images": keep_images}
        with session(address, gpus):
            check_storage([*images.uris, model], [out])
            output.begin()
            # Appended rows keep the precision of the table.
            precision = existing_table.precision if existing_table else None
            parts, encoded = encode_parts(arguments, plans, precision, check_lock)
        check_lock()
        spent = {**encoded, "seconds": round(time.monotonic() - started, 1)}
        facts = {"model": arguments["model"], "data": images.given, **known, **spent}
        facts |= {"columns": images.columns, **images.skipped_result}
        result = latent_parts.publish_latents(output, parts, existing_table, facts)
    bad, rows = sum(part.bad for part in parts), sum(shard.rows_to_read for shard in shards)
    check_bad_share(images.uri, bad, rows, max_bad_fraction, out)
    return result


def _unknown_rows(
    images: Source, existing_table: LatentTable, check_lock: Callable[[], None], address: str | None
) -> tuple[Shard, ...]:
    """The shards without the rows whose keys the table has; their columns become those of the table."""
    shards = images.shards
    if existing_table.parts:
        shards = with_table_columns(shards, existing_table.source_columns(), existing_table.uri)
    repeated = RepeatedRows(images.rows, known=existing_table.manifest.rows)
    if not repeated.needs_ray:
        return leaving_out(shards, known_rows(shards, existing_table, repeated, check_lock))
    with session(address):
        check_storage([images.uri, existing_table.uri], [])
        return leaving_out(shards, known_rows(shards, existing_table, repeated, check_lock))


def _count_known(images: Source, rest: tuple[Shard, ...], existing_table: LatentTable) -> dict[str, int]:
    """Count the rows that are not encoded again; warn if the table has their keys from another source.

    They may be the same images (the folder was moved) or other images whose files have the same names.
    """
    known = images.rows - sum(shard.rows_to_read for shard in rest)
    before = existing_table.manifest.result.get("data", "an unnamed source")
    if known and before != images.given:
        _logger.warning(
            f"{known} of {images.rows} images of {images.uri} are not encoded: {existing_table.uri}, encoded"
            f" from {before}, has their keys; if they are other images, rename their files or encode them"
            f" into another table"
        )
    return {"known_rows": known}
