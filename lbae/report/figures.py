"""Figures: losses over epochs, how often every bit is set, what an attribute does to the bits, drift between tables."""

import io
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from lbae.core.attributes import AttributeStatistics
from lbae.core.drift import Drift

_BLUE, _ORANGE = "#0072b2", "#d55e00"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _axes(title: str, x: str, y: str) -> tuple[Figure, Any]:
    with matplotlib.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(6, 3.4), layout="constrained")
        axes = figure.add_subplot()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.25)
    return figure, axes


def losses(history: list[dict[str, Any]], loss: str) -> bytes:
    """Training and validation loss over epochs."""
    figure, axes = _axes("Reconstruction loss", "epoch", f"{loss}, summed over pixels")
    numbers = [epoch["number"] for epoch in history]
    axes.plot(numbers, [epoch["train_loss"] for epoch in history], color=_BLUE, marker="o", label="training")
    checks = [epoch["validation_loss"] for epoch in history]
    if all(check is not None for check in checks):
        axes.plot(numbers, checks, color=_ORANGE, marker="s", label="held out")
    axes.legend(frameon=False)
    return _png(figure)


def bit_means(mean: np.ndarray) -> bytes:
    """Sorted probabilities of the bits being +1."""
    figure, axes = _axes("How often each bit is +1", "bit, sorted", "share of images")
    axes.plot(np.sort((mean + 1) / 2), color=_BLUE)
    axes.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    axes.set_ylim(0, 1)
    return _png(figure)


def moment_match(target: np.ndarray, sampled: dict[str, np.ndarray]) -> bytes:
    """Correlations of pairs of bits: those of the training latents against those of samples (slide 16)."""
    figure, axes = _axes("Pairs of bits: samples against training latents", "E[b_i b_j], training latents", "samples")
    pairs = np.triu_indices(len(target), 1)
    for (name, second), color in zip(sampled.items(), (_BLUE, _ORANGE), strict=False):
        axes.scatter(target[pairs], second[pairs], s=2, alpha=0.3, color=color, label=name, rasterized=True)
    axes.axline((0, 0), slope=1, color="grey", linewidth=0.8)
    axes.legend(frameon=False, markerscale=5)
    return _png(figure)


def lifts(statistics: AttributeStatistics) -> bytes:
    """The lift of every attribute on every bit."""
    figure, axes = _axes("Lift of the attributes on the bits", "bit", "")
    limit = float(np.abs(statistics.lift).max()) or 1.0
    image = axes.imshow(statistics.lift, aspect="auto", cmap="PuOr", vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set_yticks(range(len(statistics.names)), statistics.names)
    axes.grid(visible=False)
    figure.colorbar(image, label="change of E[b]")
    return _png(figure)


def drift(found: Drift) -> bytes:
    """z-score of every bit, sorted, against what chance alone would give."""
    title = f"Distance of the moment matrices {found.frobenius:.2f}, by chance {found.expected:.2f}"
    figure, axes = _axes(title, "bit, sorted", "z-score of the difference of means")
    size = len(found.z)
    axes.plot(stats.norm.ppf((np.arange(size) + 0.5) / size), color="grey", linewidth=1, label="by chance")
    axes.plot(np.sort(found.z), color=_BLUE, label="found")
    axes.legend(frameon=False)
    return _png(figure)
