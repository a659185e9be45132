"""Encode images into a table of bit-packed latents."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lbae.distributed.cluster.session import session
from lbae.distributed.cluster.storage_check import check_storage
from lbae.distributed.encode.encoder import assemble_parts, choose_precision, encode_shards
from lbae.io.artifacts import latent_parts
from lbae.io.artifacts.latent_table import KIND, LatentTable
from lbae.io.artifacts.model_artifact import load_network
from lbae.io.artifacts.output import Output
from lbae.io.artifacts.written_part import Part
from lbae.io.sources.decode import check_bad_share
from lbae.io.sources.plan import SHARD_LIMITS, plan
from lbae.io.sources.source import Shard, Source, with_table_columns, without
from lbae.io.storage.location import absolute
from lbae.io.storage.lock import locked
from lbae.jobs.options import Address, BadFraction, Gpus, Overwrite, SourceKind

_logger = logging.getLogger(__name__)


def encode(
    *,
    model: str,
    data: str,
    out: str,
    append: bool = False,
    keep_images: bool = False,
    kind: SourceKind = None,
    max_bad_fraction: BadFraction = 0.01,
    overwrite: Overwrite = False,
    gpus: Gpus = None,
    address: Address = None,
) -> dict[str, Any]:
    """Encode images into a Parquet table of bit-packed latents. A killed job resumes when it is run again.

    Args:
        model: URI of the model artifact.
        data: image table (Parquet), WebDataset tars, folder of images, or torchvision:mnist, cifar10, celeba.
        out: URI of the latent table.
        append: encode only images whose keys the table does not hold yet, as its next generation.
        keep_images: store the bytes of the images in the table's column ``image``.
    """
    _, config, manifest = load_network(model)
    images = plan(data, kind)
    images.check_output(out)
    settings = {"latent_dim": config.model.latent_dim, "keep_images": keep_images}
    output = Output(
        out,
        KIND,
        parents={"model": manifest.fingerprint, "data": images.fingerprint},
        config=settings,
        inputs=[model, *images.folders],
        resume_key=SHARD_LIMITS,
        overwrite=overwrite,
    )
    with locked(out) as check_lock:
        existing_table, shards, known = None, images.shards, {}
        if append:
            existing_table = latent_parts.open_for_append(out, manifest, settings)
            output = replace(output, extends=existing_table.manifest)
            shards = _unknown_rows(images, existing_table)
            known = _count_known(images, shards, existing_table)
            if not shards:
                return {**output.unchanged(), **known}
        elif done := output.existing():
            check_bad_share(data, done["bad"], images.rows, max_bad_fraction, out)
            return done
        started = time.monotonic()
        arguments = {"model": absolute(model), "out": absolute(out), "keep_images": keep_images}
        with session(address, gpus):
            check_storage([images.uri, model], [out])
            output.begin()
            parts, encoded = _encode(arguments, shards, existing_table, check_lock)
        check_lock()
        spent = {**encoded, "seconds": round(time.monotonic() - started, 1)}
        facts = {"model": arguments["model"], "data": images.uri, **known, **spent}
        facts |= {"columns": images.columns, **images.skipped_result}
        result = latent_parts.publish_latents(output, parts, existing_table, facts)
    bad, rows = sum(part.bad for part in parts), sum(shard.rows_to_read for shard in shards)
    check_bad_share(data, bad, rows, max_bad_fraction, out)
    return result


def _encode(
    arguments: dict[str, Any],
    shards: tuple[Shard, ...],
    existing_table: LatentTable | None,
    check_lock: Callable[[], None],
) -> tuple[list[Part], dict[str, Any]]:
    """Encode the shards, at the precision of the table that they are added to, and assemble the parts."""
    if existing_table:
        precision = existing_table.manifest.result["precision"]
    else:
        precision = choose_precision(arguments["out"])
    encoded = encode_shards({**arguments, "precision": precision}, shards, check_lock)
    return assemble_parts(arguments["out"], shards, existing_table), encoded


def _unknown_rows(images: Source, existing_table: LatentTable) -> tuple[Shard, ...]:
    """The shards of a source without the rows that the table has, and with its columns."""
    shards = images.shards
    if existing_table.parts:
        shards = with_table_columns(shards, existing_table.source_columns(), existing_table.uri)
    return without(shards, existing_table.keys())


def _count_known(images: Source, rest: tuple[Shard, ...], existing_table: LatentTable) -> dict[str, int]:
    """Count the rows that are not encoded again; warn if the table has their keys from another source.

    Those may be the same images, as in a folder that was moved, or others whose files have the same names.
    """
    known = images.rows - sum(shard.rows_to_read for shard in rest)
    before = existing_table.manifest.result.get("data", "a place that it does not name")
    if known and before != images.uri:
        _logger.warning(
            f"{known} of {images.rows} images of {images.uri} are not encoded: {existing_table.uri}, encoded"
            f" from {before}, has their keys; if they are other images, give their files other names, or"
            f" encode them into a table of their own"
        )
    return {"known_rows": known}
