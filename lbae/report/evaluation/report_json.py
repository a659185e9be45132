"""The report of an evaluation as JSON: every figure, and everything that the figures depend on."""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

import lbae
from lbae.core.moments.bit_health import bit_health
from lbae.core.moments.moment_sums import MomentSums
from lbae.core.prior.fidelity import moment_errors
from lbae.core.prior.memorization import QUERIES
from lbae.report.evaluation.edits import LATENTS
from lbae.report.evaluation.findings import Findings
from lbae.report.evaluation.inputs import EvaluationInputs
from lbae.report.evaluation.interpolations import PAIRS
from lbae.report.evaluation.lossy_formats import psnr
from lbae.report.evaluation.settings import DISTANCE_NAMES, EvaluationSettings
from lbae.report.evaluation.streams import BAD, PROTOCOL_VERSION, RECONSTRUCTIONS, TEST, TRAIN, Stream
from lbae.report.evaluation.variations import VARIATIONS, VARIED
from lbae.report.features.distances import KERNEL_ROWS
from lbae.report.features.feature_sums import KEPT

KIND = "evaluation"


def evaluation_report(
    inputs: EvaluationInputs, settings: EvaluationSettings, found: Findings
) -> dict[str, Any]:
    """The content of report.json: all figures, and everything that they depend on."""
    references = {name: reference.features.count for name, reference in found.references.items()}
    config = inputs.bundle.codec.config
    drawn = found.sampled_moments(config.latent_dim)
    return {
        "version": PROTOCOL_VERSION,
        **asdict(settings),
        "names": DISTANCE_NAMES[settings.features],
        "images": references | {name: stream.features.count for name, stream in found.streams.items()},
        "undecodable": _undecodable(found),
        "rows_used": _rows_used(inputs, settings, found),
        "fingerprints": {**inputs.parents, **found.fingerprints},
        "versions": _versions(),
        "hardware": found.hardware,
        "distances": found.distances,
        "classifier_accuracy": found.accuracy,
        "reconstructions": _errors(found.streams[RECONSTRUCTIONS]),
        "rates": _rates(found, config.latent_dim / config.content_size**2),
        "bits": {name: round(value, 4) for name, value in bit_health(drawn["test latents"]).items()},
        "moments_of_samples": _moment_errors(drawn, inputs.moments),
        "nearest": found.nearest,
        "interpolation": {name: path.facts for name, path in found.paths.items()},
        "edits": [
            {
                "attribute": edit.attribute,
                "value": edit.value,
                "images": edit.images,
                "ceiling": edit.ceiling,
                **edit.facts,
                "by_strength": edit.by_strength,
            }
            for edit in found.edits
        ],
        "edit_distances": found.edit_distances,
        VARIATIONS: found.variations.by_strength if found.variations else [],
        "overlap": found.overlap,
        "left_out": found.left_out,
        "seconds": found.seconds,
    }


def _undecodable(found: Findings) -> dict[str, int]:
    """The number of images of each source that could not be decoded."""
    sums: dict[str, Mapping[str, float]] = {TEST: found.streams[RECONSTRUCTIONS].sums}
    sums |= {name: reference.sums for name, reference in found.references.items() if name == TRAIN}
    return {name: int(of_source[BAD]) for name, of_source in sums.items()}


def _rows_used(inputs: EvaluationInputs, settings: EvaluationSettings, found: Findings) -> dict[str, int]:
    """The largest number of rows that a statistic uses, for each statistic that does not use all."""
    tested, used = found.streams[RECONSTRUCTIONS].features.count, {}
    if {"kernel", "precision", "recall"} & set(settings.metrics):
        used["kernel, precision, recall"] = min(KEPT, tested)
    if "kernel" in settings.metrics:
        used["a kernel distance's subset"] = min(KERNEL_ROWS, tested)
    if TRAIN in found.references:
        used["training images against test images"] = min(
            KEPT, tested, found.references[TRAIN].features.count
        )
    if inputs.latents:
        used["nearest training latents"] = min(QUERIES, tested)
    used |= {
        "rates": len(found.streams[RECONSTRUCTIONS].shown),
        "interpolation, pairs": min(PAIRS, tested // 2),
    }
    if found.variations:
        used[VARIATIONS] = min(VARIED, tested)
    return used | ({"edits": min(LATENTS, tested)} if found.edits else {})


def _errors(stream: Stream) -> dict[str, float]:
    count = stream.features.count
    means = {name: stream.sums[name] / count for name in ("mse", "ssim", "lpips") if name in stream.sums}
    return {name: round(value, 6) for name, value in means.items()} | {
        "psnr_db": round(psnr(means["mse"]), 2)
    }


def _rates(found: Findings, bits: float) -> dict[str, Any]:
    """Bits per pixel of latents, and of image formats at the same error (None where no quality has it)."""
    images, rebuilt = found.streams[RECONSTRUCTIONS].shown.swapaxes(0, 1) / 255
    quality_db = psnr(float(np.square(images - rebuilt).mean()))
    same = {}
    for form, curve in found.rates.items():
        rates, decibels = np.array(sorted(curve, key=lambda point: point[1])).T
        same[form] = (
            round(float(np.interp(quality_db, decibels, rates)), 3)
            if decibels[0] <= quality_db <= decibels[-1]
            else None
        )
    smallest = {form: round(min(curve)[0], 3) for form, curve in found.rates.items()}
    psnr_db = round(quality_db, 2)
    return {"latents": round(bits, 4), "psnr_db": psnr_db, "same_psnr": same, "smallest": smallest}


def _moment_errors(drawn: dict[str, MomentSums], target: MomentSums | None) -> dict[str, dict[str, float]]:
    if target is None:
        return {}
    return {
        name: moment_errors(sums.mean, sums.second, target.mean, target.second)
        for name, sums in drawn.items()
    }


def _versions() -> dict[str, str]:
    names = ("torch", "torchvision", "torchmetrics", "torch-fidelity", "numpy", "pillow", "ray")
    return {"lbae": lbae.__version__, **{name: importlib.metadata.version(name) for name in names}}
