"""Figures: losses over epochs, means and covariances of bits (slide 16), lifts, distances, rates, drift."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import ScalarFormatter
from scipy import stats

from lbae.core.moments.attribute_statistics import AttributeStatistics
from lbae.core.moments.drift import Drift

_COLORS = _BLUE, _ORANGE, _GREEN = "#0072b2", "#d55e00", "#009e73"
_INK = "#767676"  # readable on white and on black: figures have no background of their own
_MARKERS = "os^vDPX*<>"
_PAIRS = 4_000
_LOSSES = {"train_loss": ("-", "training"), "validation_loss": ("--", "held out"), "test_loss": (":", "test")}


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    for text in figure.findobj(Text):
        text.set_color(_INK)
    figure.savefig(buffer, format="png", dpi=110, transparent=True)
    return buffer.getvalue()


def _axes(title: str, x: str, y: str, panels: int = 1) -> tuple[Any, ...]:
    """A figure and its panels; the first panel has the title and the axis labels."""
    style: dict[Any, Any] = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(style | dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), _INK)):
        figure = Figure(figsize=(6 * panels, 3.4), layout="constrained")
        axes = figure.subplots(1, panels, squeeze=False)[0]
    axes[0].set(title=title, xlabel=x, ylabel=y)
    for panel in axes:
        panel.grid(alpha=0.25)
    return figure, *axes


def plot_losses(
    runs: dict[str, list[dict[str, Any]]], loss: str, apart: dict[str, float] | None = None
) -> bytes:
    """Losses of training (lines), held-out (dashes) and test images (dots) over epochs, of runs by name.

    ``apart``, if given, adds bars of the distance of samples to test images.
    """
    figure, axes, *beside = _axes(
        "Reconstruction loss", "epoch", f"{loss}, summed over pixels", 2 if apart else 1
    )
    for index, (name, history) in enumerate(runs.items()):
        color = _COLORS[index % len(_COLORS)]
        numbers = [epoch["number"] for epoch in history]
        for loss_name, (line, what) in _LOSSES.items():
            values = [epoch.get(loss_name) for epoch in history]
            if None not in values:
                axes.plot(numbers, values, line, color=color, label=f"{name} {what}".strip())
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_yscale("log")  # the first epoch's loss is several times the others'
    for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        which(ScalarFormatter())
    axes.legend(frameon=False, fontsize="small")
    for other in beside:
        other.set(title="Samples", xlabel="Fréchet classifier distance to test images")
        _bars(other, apart or {}, [_COLORS[index % len(_COLORS)] for index in range(len(runs))])
        other.set_xscale("linear")
        other.set_xlim(left=0)
    return _png(figure)


def plot_marginals(target: np.ndarray, sampled: dict[str, np.ndarray]) -> bytes:
    """How often each bit is +1, sorted by the training latents (slide 16)."""
    figure, axes = _axes("How often each bit is +1", "bit, sorted by the training latents", "share of images")
    order = np.argsort(target)
    _against(axes, (target[order] + 1) / 2, {name: (mean[order] + 1) / 2 for name, mean in sampled.items()})
    axes.set_ylim(0, 1)
    return _png(figure)


def plot_covariances(target: np.ndarray, sampled: dict[str, np.ndarray]) -> bytes:
    """Covariances of pairs of bits, sorted by the training latents (slide 16).

    Of many pairs, some thousands are shown, evenly spaced in that order.
    """
    figure, axes = _axes("Covariances of pairs of bits", "pair, sorted by the training latents", "covariance")
    i, j = np.triu_indices(len(target), 1)
    order = np.argsort(target[i, j])[:: max(1, len(i) // _PAIRS)]
    i, j = i[order], j[order]
    _against(axes, target[i, j], {name: covariance[i, j] for name, covariance in sampled.items()})
    return _png(figure)


def _against(axes: Any, target: np.ndarray, sampled: dict[str, np.ndarray]) -> None:
    """Draw the points of every sampler under the line of the training latents."""
    for (name, values), color in zip(sampled.items(), _COLORS, strict=False):
        axes.plot(values, ".", markersize=2, alpha=0.5, color=color, label=name, rasterized=True)
    axes.plot(target, color=_INK, linewidth=1.2, label="training latents")
    axes.legend(frameon=False, markerscale=5)


def plot_lifts(statistics: AttributeStatistics) -> bytes:
    """The lift of every attribute on every bit."""
    figure, axes = _axes("Lift of the attributes on the bits", "bit", "")
    limit = float(np.abs(statistics.lift).max()) or 1.0
    image = axes.imshow(
        statistics.lift, aspect="auto", cmap="PuOr", vmin=-limit, vmax=limit, interpolation="nearest"
    )
    axes.set_yticks(range(len(statistics.names)), statistics.names)
    axes.grid(visible=False)
    bar = figure.colorbar(image, label="change of E[b]")
    bar.ax.tick_params(color=_INK)
    bar.outline.set_edgecolor(_INK)
    return _png(figure)


def plot_bars(values: dict[str, float], what: str) -> bytes:
    """One bar per name, on a logarithmic scale."""
    figure, axes = _axes("", what, "")
    _bars(axes, values, [_BLUE] * len(values))
    return _png(figure)


def _bars(axes: Any, values: dict[str, float], colors: Sequence[str]) -> None:
    names = list(values)[::-1]
    drawn = axes.barh(names, [max(values[name], 1e-3) for name in names], color=colors[::-1])
    axes.bar_label(drawn, [f"{values[name]:.2f}" for name in names], padding=3)
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.grid(visible=False, axis="y")


def plot_precision_recall(points: dict[str, tuple[float, float]]) -> bytes:
    """Precision over recall, one point per name."""
    figure, axes = _axes(
        "", "recall: share of test images near samples", "precision: share of\nsamples near test images"
    )
    for index, (name, (recall, precision)) in enumerate(points.items()):
        axes.plot(
            recall,
            precision,
            _MARKERS[index % len(_MARKERS)],
            color=_COLORS[index % len(_COLORS)],
            label=name,
        )
    axes.set(xlim=(0, 1.03), ylim=(0, 1.03))
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
    return _png(figure)


def plot_successes(curves: dict[str, list[tuple[float, float]]], ceiling: float | None) -> bytes:
    """The success of edits over their strength, one curve per method, and what it can reach if known."""
    figure, axes = _axes("", "strength", "share of edits that the\nclassifier confirms")
    for (name, curve), color, marker in zip(curves.items(), _COLORS, _MARKERS, strict=False):
        axes.plot(*zip(*curve, strict=True), f"-{marker}", color=color, markersize=5, label=name)
    if ceiling is not None:
        axes.axhline(ceiling, color=_INK, linewidth=1, linestyle="--", label="ceiling")
    axes.set(xlim=(0, 2.05), ylim=(0, 1.03))
    axes.legend(frameon=False)
    return _png(figure)


def plot_rates(curves: dict[str, list[tuple[float, float]]], ours: tuple[float, float]) -> bytes:
    """PSNR over bits per pixel, of image formats and of latents."""
    figure, axes = _axes("", "bits per pixel, headers included", "PSNR, dB")
    for (name, curve), color, line in zip(curves.items(), (_ORANGE, _GREEN), ("-o", "--s"), strict=False):
        axes.plot(*zip(*curve, strict=True), line, color=color, markersize=4, label=name.upper())
    axes.plot(*ours, "*", color=_BLUE, markersize=14, label="latents")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.legend(frameon=False)
    return _png(figure)


def plot_drift(found: Drift) -> bytes:
    """z-score of every bit, sorted, beside the z-scores expected by chance."""
    title = f"Distance of moment matrices: {found.frobenius:.2f}; expected by chance: {found.expected:.2f}"
    figure, axes = _axes(title, "bit, sorted", "z-score of the difference of means")
    size = len(found.z)
    axes.plot(
        stats.norm.ppf((np.arange(size) + 0.5) / size), color="grey", linewidth=1, label="expected by chance"
    )
    axes.plot(np.sort(found.z), color=_BLUE, label="found")
    axes.legend(frameon=False)
    return _png(figure)
