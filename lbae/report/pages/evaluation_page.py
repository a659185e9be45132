"""The files of an evaluation: report.json, figures and pictures, and one page that shows them."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from lbae.core.prior.fidelity import covariance
from lbae.io.images import encode_png, grid
from lbae.report.evaluation.edits import SHOWN, STRENGTHS
from lbae.report.evaluation.findings import NEAREST, Findings
from lbae.report.evaluation.inputs import EvaluationInputs
from lbae.report.evaluation.interpolations import FRAMES
from lbae.report.evaluation.settings import PRIORS
from lbae.report.evaluation.streams import RECONSTRUCTIONS, TEST
from lbae.report.evaluation.variations import VARIATIONS, VARIED_STRENGTHS
from lbae.report.figures import plots as figures
from lbae.report.pages.evaluation_sections import EDIT_CURVES, EDIT_PICTURE, EDITED, PRIOR_PICTURE, sections
from lbae.report.pages.html import page

_COLUMNS, _SAMPLES = 16, 32


def files(inputs: EvaluationInputs, report: dict[str, Any], found: Findings) -> dict[str, bytes]:
    """The content of every file of the evaluation, by name."""
    pictures = {name: encode_png(picture) for name, picture in _pictures(found)}
    shown = pictures | dict(_figures(inputs, report, found))
    text = page(f"Evaluation of bundle {inputs.bundle.fingerprint[:12]}", list(sections(report, shown)))
    return {
        "report.json": json.dumps(report, indent=2).encode(),
        "report.html": text.encode(),
        **{f"{name}.png": content for name, content in shown.items()},
    }


def _pictures(found: Findings) -> Iterable[tuple[str, np.ndarray]]:
    pairs = found.streams[RECONSTRUCTIONS].shown
    # Evenly spaced over the source, because it may be sorted by class.
    spread = np.linspace(0, len(pairs) - 1, min(_COLUMNS, len(pairs))).astype(int)
    images, rebuilt = pairs[spread].swapaxes(0, 1)
    yield "reconstructions", grid(np.concatenate([images, rebuilt]), len(images))
    for name, stream in found.streams.items():
        if name in PRIORS:
            yield f"{PRIOR_PICTURE}{name}", grid(stream.shown[:_SAMPLES], _COLUMNS)
    if found.neighbours is not None:
        yield "nearest", grid(found.neighbours, len(found.neighbours) // (1 + NEAREST))
    for name, path in found.paths.items():
        yield f"interpolation-{name}", grid(path.images, FRAMES)
    if found.variations:
        shown = found.variations.shown
        yield VARIATIONS, grid(shown, len(shown) // len(VARIED_STRENGTHS))
    for number, edit in enumerate(found.edits[:EDITED], start=1):
        yield f"{EDIT_PICTURE}{number}", grid(edit.shown, min(SHOWN, edit.images))


def _figures(
    inputs: EvaluationInputs, report: dict[str, Any], found: Findings
) -> Iterable[tuple[str, bytes]]:
    names, rows = report["names"], report["distances"]
    bars = {name: row[TEST]["frechet"] for name, row in rows.items() if "frechet" in row.get(TEST, {})}
    if bars:
        yield "distances", figures.plot_bars(bars, f"{names['frechet']} to test images")
    wanted = {"precision", "recall"}
    measured = {name: row[TEST] for name, row in rows.items() if wanted <= row.get(TEST, {}).keys()}
    points = {name: (row["recall"], row["precision"]) for name, row in measured.items()}
    if points:
        yield "precision-recall", figures.plot_precision_recall(points)
    rates = report["rates"]
    yield "rates", figures.plot_rates(found.rates, (rates["latents"], rates["psnr_db"]))
    if report["edits"]:
        yield EDIT_CURVES, figures.plot_successes(*_mean_successes(report["edits"]))
    if inputs.moments is not None:
        drawn = found.sampled_moments(inputs.moments.latent_dim)
        chosen = [name for name in ("mixture", "paper", "direct") if name in drawn] or list(drawn)[:3]
        target = inputs.moments
        yield "marginals", figures.plot_marginals(target.mean, {name: drawn[name].mean for name in chosen})
        sampled = {name: covariance(drawn[name].mean, drawn[name].second) for name in chosen}
        yield "covariances", figures.plot_covariances(covariance(target.mean, target.second), sampled)


def _mean_successes(
    edits: list[dict[str, Any]],
) -> tuple[dict[str, list[tuple[float, float]]], float | None]:
    """Mean success of the edits by method, as (strength, success), and the mean of the known ceilings."""
    curves = {}
    for method, strengths in STRENGTHS.items():
        done = [edit["by_strength"][method] for edit in edits if method in edit["by_strength"]]
        if done:
            means = np.mean([[facts["success"] for facts in each] for each in done], axis=0)
            curves[method] = list(zip(strengths, means.tolist(), strict=True))
    ceilings = [edit["ceiling"] for edit in edits if edit["ceiling"] is not None]
    return curves, float(np.mean(ceilings)) if ceilings else None
