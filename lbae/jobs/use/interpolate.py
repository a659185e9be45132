"""Interpolate between images: a strip of frames or an animation."""

from typing import Any

import numpy as np

from lbae.errors import UserError
from lbae.io.artifacts.bundle_artifact import load_bundle
from lbae.io.images import encode_png, encode_webp
from lbae.io.picture_file import check_not_read, write_picture
from lbae.jobs.options import Names
from lbae.report.figures.pictures import load_image, strip


def interpolate(
    *, bundle: str, source: str, target: str, out: str, via: Names = (), steps: int = 10
) -> dict[str, Any]:
    """Interpolate between images: a strip of frames or an animation.

    Args:
        bundle: URI of the bundle.
        source: Image file at the start.
        target: Image file at the end.
        out: File to write: a strip of frames (*.png), or an animation there and back (*.webp).
        via: Image file to pass through. Repeat for several, in order.
        steps: Number of frames from one image to the next, including both; 2 to 1000.
    """
    suffix = out.rpartition(".")[2].lower()
    if suffix not in ("png", "webp"):
        raise UserError(f"out is {out!r}; allowed: a file name that ends in .png or .webp")
    if not 2 <= steps <= 1000:
        raise UserError(f"steps is {steps}; allowed: 2 (the two images) to 1000")
    images = (source, *via, target)
    check_not_read(out, *images)
    loaded = load_bundle(bundle)
    frames = loaded.interpolate(np.stack([load_image(loaded.codec.config, uri) for uri in images]), steps)
    write_picture(out, encode_png(strip(frames)) if suffix == "png" else encode_webp(frames))
    return {"out": out, "frames": len(frames), "bundle": loaded.fingerprint}
