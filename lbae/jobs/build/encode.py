"""Encode an image source to a latent table."""

import time
from dataclasses import replace
from typing import Any

from lbae import log
from lbae.distributed.cluster.session import session
from lbae.distributed.cluster.storage_check import check_storage
from lbae.distributed.encode.encoder import assemble_parts, choose_precision, encode_shards
from lbae.io.artifacts import latent_parts as assembly
from lbae.io.artifacts import latent_table
from lbae.io.artifacts.model_artifact import load_network
from lbae.io.artifacts.output import Output
from lbae.io.sources.decode import check_bad_share
from lbae.io.sources.plan import CUT, Kind, plan
from lbae.io.sources.source import Shard, Source, with_table_columns, without
from lbae.io.storage.location import absolute
from lbae.io.storage.lock import locked


def encode(
    *,
    model: str,
    data: str,
    out: str,
    append: bool = False,
    keep_images: bool = False,
    kind: Kind | None = None,
    max_bad_fraction: float = 0.01,
    overwrite: bool = False,
    gpus: int | None = None,
    address: str | None = None,
) -> dict[str, Any]:
    """Encode images into a Parquet table of bit-packed latents. A killed job, run again, continues.

    Args:
        model: URI of the model artifact.
        data: image table (Parquet), WebDataset tars, folder of images, or torchvision:mnist, cifar10, celeba.
        out: URI of the latent table.
        append: encode only images whose keys are not in the table yet, as its next generation; the others are
            counted.
        keep_images: keep the images' bytes in the table, as its column ``image``.
        kind: table, tars or files: what ``data`` is, when its files' names (.parquet, .tar) do not say so.
        max_bad_fraction: share of undecodable images above which the job fails, after writing what it has.
        overwrite: replace another artifact at ``out``.
        gpus: GPUs that the cluster must have or get; without it whatever it has is used, perhaps none.
        address: Ray cluster to join; found or started when not given.
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
        log.warning(
            f"{known} of {images.rows} images of {images.uri} are not encoded: {base.uri}, encoded from"
            f" {before}, has their"
            " keys; if they are other images, give their files other names, or encode them into a table of"
            " their own"
        )
    return {"known_rows": known}
