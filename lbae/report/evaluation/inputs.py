"""The artifacts that an evaluation reads, and the check that they belong together."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from lbae.core.bundle import Bundle
from lbae.core.moments.moment_sums import MomentSums
from lbae.errors import UserError
from lbae.io.artifacts import bundle_artifact
from lbae.io.artifacts.latent_tables import LatentTables, open_latent_tables
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.artifacts.moments_artifact import load_moments
from lbae.io.images import image_size
from lbae.io.sources.plan import plan
from lbae.io.sources.source import Source, read_batches
from lbae.io.storage.hub import pinned

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EvaluationInputs:
    """A bundle and test images; where given, also training images, their latents and moment sums."""

    bundle: Bundle
    test: Source
    train: Source | None
    latents: LatentTables | None
    moments: MomentSums | None
    parents: dict[str, str]


def read_inputs(
    bundle: str,
    data: str | Sequence[str],
    train_data: str | Sequence[str] | None,
    latents: str | Sequence[str] | None,
    moments: str | None,
) -> EvaluationInputs:
    """Open the inputs.

    UserError when the bundle was not fitted from these latents or moments, when the latents were not encoded
    from these training images, or when no test image can be read or the first is too small for the bundle.
    """
    bundle = pinned(bundle)
    manifest = read_manifest(bundle, bundle_artifact.KIND)
    table = open_latent_tables(latents) if latents else None
    sums, sums_manifest = load_moments(moments) if moments else (None, None)
    for name, uri, found in (
        ("latents", table, table and table.fingerprint),
        ("moments", moments, sums_manifest and sums_manifest.fingerprint),
    ):
        wanted = manifest.parents.get(name)
        if found and found != wanted:
            raise UserError(
                f"bundle {bundle} was fitted from {name} with the fingerprint {wanted}; {uri} has"
                f" {found}: give those that the bundle was fitted from"
            )
    test, train = plan(data), plan(train_data) if train_data else None
    for one in table.tables if train and table else ():
        encoded = one.manifest.parents.get("data")
        if train and encoded not in train.fingerprints:
            raise UserError(
                f"latents {one.uri} were encoded from images with the fingerprint {encoded}; training images"
                f" {train.uri} have {train.fingerprint} (it covers the names, sizes and times of files):"
                " give the images that were encoded, under the same names, or leave out --latents"
            )
    loaded = bundle_artifact.load_bundle(bundle, "cpu")
    config = loaded.codec.config
    for source in (test, train) if train else (test,):
        source.check_stored(config.content_size, config.image_channels)
    _check_size(test, config.content_size)
    parents = {"bundle": manifest.fingerprint, "data": test.fingerprint}
    parents |= {"train_data": train.fingerprint} if train else {}
    parents |= {"latents": table.fingerprint} if table else {}
    parents |= {"moments": sums_manifest.fingerprint} if sums_manifest else {}
    return EvaluationInputs(
        bundle=loaded, test=test, train=train, latents=table, moments=sums, parents=parents
    )


def _check_size(test: Source, side: int) -> None:
    """Raise UserError when the first readable test image is smaller than the bundle's; warn when larger."""
    batches = (batch["bytes"] for shard in test.shards for batch in read_batches(shard))
    size = next((size for cells in batches for cell in cells if (size := image_size(cell.as_py()))), None)
    if size is None:
        raise UserError(f"none of the test images of {test.uri} can be read: give readable images")
    if size == (side, side):
        return
    text = f"test images of {test.uri} have {size[0]} x {size[1]} pixels, those of the bundle {side} x {side}"
    if min(size) < side:
        raise UserError(f"{text}: give test images of the kind that the bundle was trained on")
    _logger.warning(f"{text}; they are cropped and resized")
