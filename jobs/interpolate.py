"""Interpolate between two images on the latent sphere: a PNG strip, both reconstructions at its ends."""

from typing import Any

from lbae.cli import run
from lbae.errors import UserError
from lbae.io.bundle import load_bundle
from lbae.io.images import encode_png, is_picture
from lbae.io.storage import resolve
from lbae.report.pictures import load_image, strip


def interpolate(*, bundle: str, source: str, target: str, out: str, steps: int = 10) -> dict[str, Any]:
    """Interpolate between two images.

    Args:
        bundle: URI of the bundle.
        source: image file at the left end.
        target: image file at the right end.
        out: a picture (*.png).
        steps: number of frames, both ends included.
    """
    if not is_picture(out):
        raise UserError(f"out is {out!r}; allowed: a file name that ends in .png")
    if not 2 <= steps <= 1000:
        raise UserError(f"steps is {steps}; allowed: 2 (the two ends) to 1000")
    loaded = load_bundle(bundle)
    frames = loaded.interpolate(load_image(loaded, source), load_image(loaded, target), steps)
    resolve(out).write_bytes(encode_png(strip(frames)))
    return {"out": out, "steps": steps, "bundle": loaded.fingerprint}


if __name__ == "__main__":
    run(interpolate)
