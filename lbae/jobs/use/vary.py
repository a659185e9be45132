"""Variations of an image: new images that look like it."""

from typing import Any

import numpy as np

from lbae.errors import UserError
from lbae.io.artifacts.bundle_artifact import load_bundle
from lbae.io.images import MOST_IN_A_PICTURE, encode_png, grid, is_picture
from lbae.io.picture_file import check_not_read, write_picture
from lbae.jobs.options import Names
from lbae.report.figures.pictures import load_image


def vary(
    *, bundle: str, image: Names, out: str, num: int = 8, strength: float = 0.3, seed: int = 0
) -> dict[str, Any]:
    """Draw variations of images, as a PNG.

    Variation i depends only on the bundle, the image, the strength, the seed and i.

    Args:
        bundle: URI of the bundle.
        image: Image file. Repeat for several.
        out: PNG file to write (*.png): per image a row, first its reconstruction, then the variations.
        num: Number of variations per image, 1 or more.
        strength: From 0 (the reconstruction) to 1 (a sample of the images that look like this one).
        seed: Seed of the draw, 0 or more.
    """
    if not is_picture(out):
        raise UserError(f"out is {out!r}; allowed: a file name that ends in .png")
    if seed < 0 or not image:
        raise UserError(
            f"seed is {seed}, and {len(image)} images were given; allowed: seed from 0, images from 1"
        )
    if num * len(image) > MOST_IN_A_PICTURE:
        raise UserError(
            f"num is {num:,} for each of {len(image)} images; allowed: {MOST_IN_A_PICTURE:,} in one picture"
        )
    check_not_read(out, *image)
    loaded = load_bundle(bundle)
    latents = loaded.encode(np.stack([load_image(loaded.codec.config, uri) for uri in image]))
    varied = loaded.variations.vary(latents, num, seed, strength)
    changed = (varied.reshape(len(image), num, -1) != latents[:, None]).sum(axis=2).mean()
    rows = np.concatenate([latents[:, None], varied.reshape(len(image), num, -1)], axis=1)
    write_picture(out, encode_png(grid(loaded.decode(rows.reshape(-1, rows.shape[2])), 1 + num)))
    return {
        "out": out,
        "num": num,
        "strength": strength,
        "seed": seed,
        "bits_changed": round(float(changed), 1),
        "latent_dim": loaded.prior.latent_dim,
        "bundle": loaded.fingerprint,
    }
