"""Pictures of a bundle and other artifacts: reconstructions under their originals, strips, portraits."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from lbae.config import ModelConfig
from lbae.core.bundle import Bundle
from lbae.core.latents.packing import unpack
from lbae.errors import UserError
from lbae.io.artifacts import bundle_artifact, image_table, latent_table
from lbae.io.artifacts.latent_tables import LatentTables, open_latent_tables
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.artifacts.model_artifact import load_model
from lbae.io.image_formats import MAX_FILE_BYTES
from lbae.io.images import ImageError, decode_image, grid
from lbae.io.sources.decode import decode_every
from lbae.io.sources.plan import plan
from lbae.io.sources.source import Source
from lbae.io.storage.location import readable
from lbae.report.evaluation.lossy_formats import psnr

_logger = logging.getLogger(__name__)

_COLUMNS = 16
_SHOWN = 2 * _COLUMNS
_THUMBNAIL = 64  # pixels


def load_images(config: ModelConfig, source: Source, count: int) -> tuple[np.ndarray, int]:
    """The first ``count`` decodable images of a source at the model's content size; how many were bad.

    Bad images are counted in the batches that were read; a warning names the first.
    """
    taken: list[np.ndarray] = []
    bad: list[dict[str, str]] = []
    for part in decode_every(source, config):
        taken.append(part.images[: count - sum(map(len, taken))])
        bad += part.quarantine.to_pylist()
        if sum(map(len, taken)) == count:
            break
    images = np.concatenate(taken)
    if not len(images):
        raise UserError(f"none of the images of {source.uri} could be decoded")
    if bad:
        first = f"the first is {bad[0]['key']} ({bad[0]['error']})"
        _logger.warning(f"{len(bad)} images of {source.uri} cannot be decoded and are left out; {first}")
    return images, len(bad)


def load_image(config: ModelConfig, uri: str) -> np.ndarray:
    """One image file at the model's content size; UserError for a device, a pipe or more than 256 MiB."""
    try:
        return decode_image(readable(uri, "image").read_bytes(most=MAX_FILE_BYTES), config)
    except (ImageError, IsADirectoryError) as error:
        raise UserError(f"{uri} cannot be read as an image: {error}") from error


def reconstructions(bundle: Bundle, images: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Originals above their reconstructions, and the reconstruction error."""
    rebuilt = bundle.reconstruct(images)
    error = (images.astype(np.float64) - rebuilt) / 255
    rows = []
    for start in range(0, len(images), _COLUMNS):
        for source in (images, rebuilt):
            row = source[start : start + _COLUMNS]
            blank = np.full((_COLUMNS - len(row), *row.shape[1:]), 255, dtype=np.uint8)
            rows.append(np.concatenate([row, blank]))
    columns = min(_COLUMNS, len(images))
    picture = grid(np.concatenate([row[:columns] for row in rows]), columns)
    mse = float((error**2).mean())
    return picture, {"images": len(images), "mse": round(mse, 6), "psnr_db": round(psnr(mse), 2)}


def strip(images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Images side by side."""
    return grid(np.stack(list(images)), len(images))


def portrait(uri: str) -> np.ndarray:
    """A picture of an artifact: an image table's images, a latent table's decoded, or samples of a bundle.

    UserError for artifacts of other kinds.
    """
    manifest = read_manifest(uri)
    if manifest.kind == image_table.KIND:
        config = ModelConfig(image_size=_THUMBNAIL, channels=(1,) * int(np.log2(_THUMBNAIL // 4)))
        images = next(decode_every(plan(uri), config)).images[:_SHOWN]
    elif manifest.kind == latent_table.KIND:
        return portrait_of_latents(open_latent_tables(uri))
    elif manifest.kind == bundle_artifact.KIND:
        images = bundle_artifact.load_bundle(uri).sample(_SHOWN, seed=0)
    else:
        raise UserError(
            f"{uri} is a {manifest.kind}; only image tables, latent tables and bundles have pictures"
        )
    return grid(images, _COLUMNS)


def portrait_of_latents(tables: LatentTables) -> np.ndarray:
    """A picture of decoded latents, as many of each table; the tables hold rows."""
    filled = [one for one in tables.tables if one.rows]
    each = -(-_SHOWN // len(filled))
    first = [next(one.batches(one.footer(one.parts[0], [])[0], ["latent"])).slice(0, each) for one in filled]
    packed = np.concatenate([latent_table.packed_latents(rows) for rows in first])[:_SHOWN]
    codec = load_model(tables.model, tables.precision)
    return grid(codec.decode(unpack(packed, tables.latent_dim)), _COLUMNS)
