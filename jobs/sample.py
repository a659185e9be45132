"""Draw new images from a bundle: a PNG grid, or an image table when --out has no image suffix."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from lbae.cli import run
from lbae.core.bundle import Bundle
from lbae.errors import UserError
from lbae.io import artifact, image_table
from lbae.io.bundle import load_bundle
from lbae.io.images import encode_png, is_picture, square_grid
from lbae.io.storage import resolve
from lbae.report.progress import ProgressLine

_BATCH = 2048


def sample(*, bundle: str, out: str, num: int = 64, seed: int = 0, overwrite: bool = False) -> dict[str, Any]:
    """Draw new images.

    Args:
        bundle: URI of the bundle.
        out: a picture (*.png), or the URI of an image table.
        num: number of images.
        seed: seed; image i depends on the bundle, the seed and i only.
        overwrite: replace another image table at ``out``.
    """
    if num < 1 or seed < 0:
        raise UserError(f"num is {num} and seed is {seed}; allowed: num from 1, seed from 0")
    loaded = load_bundle(bundle)
    facts = {"num": num, "seed": seed, "bundle": loaded.fingerprint}
    if is_picture(out):
        resolve(out).write_bytes(encode_png(square_grid(loaded.sample(num, seed))))
        return {"out": out, **facts}
    parents, settings = {"bundle": loaded.fingerprint}, {"num": num, "seed": seed}
    if done := artifact.begin(out, image_table.KIND, parents, settings, overwrite):
        return done
    return {**image_table.save_image_table(out, _batches(loaded, num, seed), parents=parents, config=settings), **facts}


def _batches(bundle: Bundle, num: int, seed: int) -> Iterator[np.ndarray]:
    latents = bundle.prior.sample(num, seed)
    with ProgressLine("sample", num, "images") as line:
        for start in range(0, num, _BATCH):
            yield bundle.decode(latents[start : start + _BATCH])
            line.update(min(num, start + _BATCH))


if __name__ == "__main__":
    run(sample)
