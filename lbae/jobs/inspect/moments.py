"""Add, subtract and compare moment sums."""

from typing import Any

import numpy as np

from lbae.core.moments.drift import moment_drift as measure
from lbae.errors import UserError
from lbae.io.artifacts import moments_artifact
from lbae.io.artifacts.output import Output
from lbae.io.picture_file import write_picture
from lbae.io.storage.location import absolute
from lbae.jobs.options import Overwrite
from lbae.report.figures.plots import plot_drift as picture

_SHOWN = 10
_REMARKABLE = 4.0  # by chance, 0.06 of 1,000 bits lie beyond it


def add(
    left: str, right: str, /, *, out: str, force: bool = False, overwrite: Overwrite = False
) -> dict[str, Any]:
    """Add the moment sums of two tables that were encoded with one model.

    Args:
        left: URI of moment sums.
        right: URI of moment sums.
        out: URI of the sum to write.
        force: Also add sums that contain the same part files; their rows then count twice.
    """
    return _combine(left, right, 1, out, force, overwrite)


def subtract(
    left: str, right: str, /, *, out: str, force: bool = False, overwrite: Overwrite = False
) -> dict[str, Any]:
    """Remove rows from moment sums exactly, as if they had never been summed.

    The rows stay in the latent table, and the model was trained on their images.

    Args:
        left: URI of moment sums.
        right: URI of the moment sums of the rows to remove.
        out: URI of the difference to write.
        force: Also remove part files that have been removed before.
    """
    return _combine(left, right, -1, out, force, overwrite)


def _combine(left: str, right: str, sign: int, out: str, force: bool, overwrite: bool) -> dict[str, Any]:
    (a, a_manifest), (b, b_manifest) = (
        moments_artifact.load_moments(left),
        moments_artifact.load_moments(right),
    )
    models = a_manifest.parents["model"], b_manifest.parents["model"]
    if models[0] != models[1]:
        raise UserError(
            f"{left} is for model {models[0]}, {right} for model {models[1]}; only sums for one model can be"
            " combined"
        )
    if (a.latent_dim, a.attributes) != (b.latent_dim, b.attributes):
        raise UserError(
            f"{left} has the attributes {', '.join(a.attributes) or 'none'},"
            f" {right} has {', '.join(b.attributes) or 'none'}; reduce both with the same --attributes"
        )
    lineage = moments_artifact.load_lineage(left, a_manifest).combine(
        moments_artifact.load_lineage(right, b_manifest), sign
    )
    twice = [part for part, times in lineage.parts.items() if not -1 <= times <= 1]
    if twice and not force:
        done = "summed" if sign > 0 else "removed"
        raise UserError(
            f"{len(twice)} part files of {right} are already {done} in {left}; give --force to count them"
            f" twice"
        )
    try:
        sums = a + b if sign > 0 else a - b
    except ValueError as error:
        raise UserError(f"{right} cannot be subtracted from {left}: {error}") from error
    parents = {"left": a_manifest.fingerprint, "right": b_manifest.fingerprint, "model": models[0]}
    config = {"operation": "add" if sign > 0 else "subtract", "force": force}
    output = Output(
        out, moments_artifact.KIND, parents=parents, config=config, inputs=[left, right], overwrite=overwrite
    )
    return output.begin() or moments_artifact.save_moments(output, sums, lineage, result={})


def drift(left: str, right: str, /, *, out: str) -> dict[str, Any]:
    """Plot how far the moments of two tables lie apart; both were encoded with one model.

    Args:
        left: URI of moment sums.
        right: URI of moment sums.
        out: PNG file to write.
    """
    (a, a_manifest), (b, b_manifest) = (
        moments_artifact.load_moments(left),
        moments_artifact.load_moments(right),
    )
    models = a_manifest.parents["model"], b_manifest.parents["model"]
    if models[0] != models[1]:
        raise UserError(
            f"{left} is for model {models[0]}, {right} for model {models[1]}: their bits have different"
            f" meanings and cannot be compared"
        )
    found = measure(a, b)
    write_picture(out, picture(found))
    most = np.argsort(-np.abs(found.z), kind="stable")[:_SHOWN]
    return {
        "out": absolute(out),
        "rows": [a.count, b.count],
        "frobenius": round(found.frobenius, 4),
        "frobenius_by_chance": round(found.expected, 4),
        "bits_beyond_4_sigma": int((np.abs(found.z) > _REMARKABLE).sum()),
        "largest": [{"bit": int(bit), "z": round(float(found.z[bit]), 1)} for bit in most],
    }


moments = {"add": add, "subtract": subtract, "drift": drift}
