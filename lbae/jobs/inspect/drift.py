"""How far the latents of two tables lie apart: figures in words, and a picture."""

from typing import Any

import numpy as np

from lbae.core.moments.drift import drift as measure
from lbae.errors import UserError
from lbae.io.artifacts.moments_artifact import load_moments
from lbae.io.storage.location import absolute, resolve
from lbae.report.figures.plots import drift as picture

_SHOWN = 10
_REMARKABLE = 4.0  # of 1,000 bits, chance alone takes 0.06 beyond


def drift(left: str, right: str, /, *, out: str) -> dict[str, Any]:
    """Compare the moments of two tables of one model.

    Args:
        left: URI of moment sums.
        right: URI of moment sums.
        out: PNG file to write.
    """
    (a, a_manifest), (b, b_manifest) = load_moments(left), load_moments(right)
    models = a_manifest.parents["model"], b_manifest.parents["model"]
    if models[0] != models[1]:
        raise UserError(
            f"{left} sums latents of model {models[0]}, {right} of model {models[1]}: their bits mean other things"
        )
    found = measure(a, b)
    resolve(out).write_bytes(picture(found))
    most = np.argsort(-np.abs(found.z), kind="stable")[:_SHOWN]
    return {
        "out": absolute(out),
        "rows": [a.count, b.count],
        "frobenius": round(found.frobenius, 4),
        "frobenius_by_chance": round(found.expected, 4),
        "bits_beyond_4_sigma": int((np.abs(found.z) > _REMARKABLE).sum()),
        "largest": [{"bit": int(bit), "z": round(float(found.z[bit]), 1)} for bit in most],
    }
