"""Encode images into a table of bit-packed latents."""

import logging
import time
from dataclasses import replace
from typing import Any

from lbae.distributed.cluster.session import session
from lbae.distributed.cluster.storage_check import check_storage
from lbae.distributed.encode.encoder import assemble_parts, choose_precision, encode_shards
from lbae.io.artifacts import latent_parts as assembly
from lbae.io.artifacts import latent_table
from lbae.io.artifacts.model_artifact import load_network
from lbae.io.artifacts.output import Output
from lbae.io.sources.decode import check_bad_share
from lbae.io.sources.plan import CUT, plan
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
        latent_table.KIND,
        parents={"model": manifest.fingerprint, "data": images.fingerprint},
        config=settings,
        inputs=[model, *images.folders],
        resume_key=CUT,
        overwrite=overwrite,
    )
    base, shards, known = None, images.shards, {}
    with locked(out) as still_held:
        if append:
            base = assembly.open_for_append(out, manifest, settings)
            output = replace(output, base=base.manifest)
            if base.parts:
                shards = with_table_columns(shards, base.source_columns(), out)
            shards = without(shards, base.keys())
            known = _known_rows(images, shards, base)
            if not shards:
                return {**output.unchanged(), **known}
        elif done := output.existing():
            check_bad_share(data, done["bad"], images.rows, max_bad_fraction, out)
            return done
        started = time.monotonic()
        encoder: dict[str, Any] = {"model": absolute(model), "out": absolute(out), "keep_images": keep_images}
        with session(address, gpus):
            check_storage([images.uri, model], [out])
            output.begin()
            encoder["precision"] = (
                base.manifest.result["precision"] if base else choose_precision(encoder["out"])
            )
            encoded = encode_shards(encoder, shards, still_held)
            parts = assemble_parts(absolute(out), base)
        still_held()
        spent = {**encoded, "seconds": round(time.monotonic() - started, 1)}
        facts = {"model": encoder["model"], "data": images.uri, **known, **spent}
        facts |= {"columns": images.columns, **images.left_out}
        result = assembly.publish_latents(output, parts, base, facts)
    check_bad_share(
        data, sum(part.bad for part in parts), sum(shard.wanted for shard in shards), max_bad_fraction, out
    )
    return result


def _known_rows(images: Source, rest: tuple[Shard, ...], base: latent_table.LatentTable) -> dict[str, int]:
    """How many rows are not encoded since the table has their keys; a warning where it has them from
    elsewhere.

    Those may be the same images, as in a folder that was moved, or others whose files have the same names.
    """
    known = images.rows - sum(shard.wanted for shard in rest)
    before = base.manifest.result.get("data", "a place that it does not name")
    if known and before != images.uri:
        _logger.warning(
            f"{known} of {images.rows} images of {images.uri} are not encoded: {base.uri}, encoded from"
            f" {before}, has their"
            " keys; if they are other images, give their files other names, or encode them into a table of"
            " their own"
        )
    return {"known_rows": known}
