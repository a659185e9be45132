"""The sections of an evaluation's page, made from its report and its pictures."""

from collections.abc import Iterable
from typing import Any

from lbae.report.evaluation.edits import METHODS
from lbae.report.evaluation.interpolations import FRAMES
from lbae.report.evaluation.streams import TEST, TRAIN
from lbae.report.evaluation.variations import VARIATIONS, VARIED_STRENGTHS
from lbae.report.pages.html import Section

# Prefixes of the names of pictures of samples and of edits.
PRIOR_PICTURE, EDIT_PICTURE = "samples-", "edit-"
EDIT_CURVES = "edits-by-strength"
EDITED = 5  # edits shown


def sections(report: dict[str, Any], shown: dict[str, bytes]) -> Iterable[Section]:
    """The sections of the page; ``shown`` are its pictures and figures by name."""
    yield _distances(report, shown)
    yield _reconstructions(report, shown)
    for name in shown:
        if name.startswith(PRIOR_PICTURE):
            prior = name.removeprefix(PRIOR_PICTURE)
            yield Section(
                title=f"Samples: {prior}", text=_WHAT[prior.partition(" at ")[0]], pictures=[shown[name]]
            )
    if "nearest" in shown:
        text = (
            "Top row: samples of the bundle's prior. Below each: the training images with the nearest"
            " latents, nearest first."
        )
        yield Section(title="Nearest training images", text=text, pictures=[shown["nearest"]])
    yield from _latents(report, shown)
    yield _interpolation(report, shown)
    if report["edits"]:
        yield _edits(report, shown)
    if report[VARIATIONS]:
        yield _variations(report, shown)
    if report["left_out"]:
        yield Section(title="Left out, with the reason", rows=list(report["left_out"].items()))
    told = (
        {key: report[key] for key in _TOLD} | report["fingerprints"] | report["versions"] | report["hardware"]
    )
    told |= {"seconds": report["seconds"]}
    rows = [(name.replace("_", " "), text) for name, value in told.items() if (text := plain(value))]
    yield Section(title="Inputs and settings", text=_TERMS, rows=rows)


def _distances(report: dict[str, Any], shown: dict[str, bytes]) -> Section:
    accuracy = report["classifier_accuracy"]
    right = plain({column: f"{share:.1%}" for column, share in accuracy.items()})
    known = f"accuracy on test images: {right}" if right else "accuracy unknown: no usable test labels"
    compared = "Inception's features"
    if report["features"] == "classifier":
        compared = f"features of a small classifier ({known}), comparable within this data set only"
    header, *rows = distance_table(report)
    return Section(
        title="Distances",
        text=f"Images are compared in {compared}; protocol {report['protocol']}. Lower distances and higher"
        " precision and recall are better. Nearest: 1st and 50th percentile of the Hamming distance to the"
        " nearest training latent. Copies: latents equal to a training latent. Samples that lie nearer to"
        " training latents than test images do, or have more copies, repeat training images.",
        header=header,
        rows=rows,
        pictures=_some(shown, "distances", "precision-recall"),
    )


def distance_table(report: dict[str, Any]) -> list[tuple[Any, ...]]:
    """A header, then a row per stream of images: its distances to the references, without empty columns."""
    names = report["names"]
    measured = ([TEST] if report["nearest"] else []) + list(report["distances"])
    return _filled(
        [
            ["images", f"{names['frechet']}, test", "training", names["kernel"], *_LAST],
            *(_distance_row(report, name) for name in measured),
        ]
    )


def _reconstructions(report: dict[str, Any], shown: dict[str, bytes]) -> Section:
    rates = report["rates"]
    taken = {
        form: "not reached" if bits is None else f"{bits:.2f}" for form, bits in rates["same_psnr"].items()
    }
    return Section(
        title="Reconstructions",
        text=f"Test images above their reconstructions. Latents take {rates['latents']:.3f} bits per pixel at"
        f" {rates['psnr_db']} dB. Bits per pixel of image formats at the same PSNR, headers included:"
        f" {plain(taken)}. Not reached: no quality setting has this PSNR.",
        rows=worded(report["reconstructions"]),
        pictures=_some(shown, "reconstructions", "rates"),
    )


def _latents(report: dict[str, Any], shown: dict[str, bytes]) -> Iterable[Section]:
    yield Section(title="Bits of the test images' latents", rows=worded(report["bits"]))
    if report["moments_of_samples"]:
        yield Section(
            title="Moments of samples",
            text="Root mean square error against the moments of the training latents. The row of test latents"
            " shows how much of it comes from chance and from unseen images.",
            header=["latents", "means", "pairs"],
            rows=[(name, f["means_rms"], f["pairs_rms"]) for name, f in report["moments_of_samples"].items()],
            pictures=_some(shown, "marginals", "covariances"),
        )


def _interpolation(report: dict[str, Any], shown: dict[str, bytes]) -> Section:
    ways = report["interpolation"]
    return Section(
        title="Interpolation",
        text=f"Paths of {FRAMES} frames between pairs of test images: ours above, those of the paper's code"
        " below. The paper's frames are shown between the true ends. A step is the change from one frame to"
        " the next; of pixels it is the root mean square change.",
        header=["", *ways],
        rows=[(text, *(facts[fact] for facts in ways.values())) for fact, text in _FACTS.items()],
        pictures=_some(shown, *(f"interpolation-{way}" for way in ways)),
    )


def _edits(report: dict[str, Any], shown: dict[str, bytes]) -> Section:
    return Section(
        title="Attribute edits",
        text="Per method at strength 1: the share of edited images in which the classifier finds the"
        " attribute as asked. Ceiling: that share of reconstructions of images that have it. In brackets:"
        " bits flipped, root mean square change of pixels, share of edited latents nearest to their original"
        " and, where the data has other columns, the share of decisions on them that differ from the original"
        " images, beyond those that differ before the edit. Curves: success over strength,"
        f" mean of all edits. Pictures: the first {EDITED} edits, one block per edit. Its rows are the images"
        f" before the edit, then those edited by {', '.join(METHODS)}, where the method can do it."
        + "".join(map(_edit_distance, report["edit_distances"].items())),
        header=["edit", "images", "ceiling", *METHODS],
        rows=[_edit_row(edit) for edit in report["edits"]],
        pictures=[
            *_some(shown, EDIT_CURVES),
            *(content for name, content in shown.items() if name.startswith(EDIT_PICTURE)),
        ],
    )


def _variations(report: dict[str, Any], shown: dict[str, bytes]) -> Section:
    header = [name.replace("own", "own nearest") for name in report[VARIATIONS][0]]
    return Section(
        title="Variations",
        text="Test images varied once at each strength, compared with their reconstructions: bits that"
        " differ, root mean square change of pixels, share of varied latents nearest to their own original,"
        " and share of the classifier's decisions that stay, per column. Picture: a row per strength, "
        + ", ".join(f"{strength:g}" for strength in VARIED_STRENGTHS)
        + ".",
        header=header,
        rows=[tuple(facts.values()) for facts in report[VARIATIONS]],
        pictures=_some(shown, VARIATIONS),
    )


def _edit_distance(column: tuple[str, dict[str, float]]) -> str:
    facts = ", ".join(f"{name} {distance:.4g}" for name, distance in column[1].items())
    return f" Fréchet distance of images edited to classes of {column[0]} to test images: {facts}."


_TERMS = (
    "Rows used: the largest number of images that a figure uses, for figures that do not use all; they are"
    " drawn at random with a fixed seed. Overlap: test images that have the same bytes, or the same key, as a"
    " training image. Equal keys mean nothing where keys are row numbers."
)
_LAST = ("precision", "recall", "nearest", "copies")
_TOLD = (
    "priors",
    "temperatures",
    "features",
    "metrics",
    "protocol",
    "version",
    "seed",
    "images",
    "rows_used",
    "undecodable",
    "overlap",
)
_WHAT = {
    "mixture": "The bundle's own prior, at temperature 1 unless its name has another.",
    "hyperplane": "Random hyperplanes through unit vectors of the nearest correlation matrix; one component.",
    "gaussian": "Thresholds on a correlated Gaussian (dichotomised Gaussian); one component.",
    "paper": "The paper's sampler, with the matrix repair of the paper's code.",
    "direct": "Signs of a Gaussian with the latents' mean and covariance (slide 16).",
    "independent": "Independent bits, each +1 as often as in the training latents.",
    "coins": "Fair coins: independent bits, each +1 with probability 1/2.",
}
_WORDS = {
    "mse": "mean squared error, pixels in [0, 1]",
    "psnr_db": "peak signal-to-noise ratio, dB",
    "ssim": "structural similarity",
    "lpips": "LPIPS",
    "mean_abs": "mean of |E[b]|",
    "dead": "bits that never vary",
    "entropy": "mean entropy per bit, in bits",
    "redundancy": "mean squared correlation of pairs",
    "effective_rank": "effective rank",
}
_FACTS = {
    "wrong_bits_an_end": "wrong bits per end",
    "flips_of_hamming": "flips along the path / Hamming distance of its ends",
    "largest_step_of_flips": "most flips in one step / all flips",
    "largest_step_of_mean": "largest pixel step / mean pixel step",
    "length_of_direct": "sum of the pixel steps / pixel change from end to end",
}


def worded(facts: dict[str, float]) -> list[tuple[str, float]]:
    """Figures with their names in words."""
    return [(_WORDS.get(name, name), value) for name, value in facts.items()]


def _some(shown: dict[str, bytes], *names: str) -> list[bytes]:
    return [shown[name] for name in names if name in shown]


def _title(attribute: str, value: bool) -> str:
    return attribute if value else f"no {attribute}"


def _filled(table: list[list[Any]]) -> list[tuple[Any, ...]]:
    """The table without its empty columns, such as metrics that were not asked for."""
    return list(zip(*(column for column in zip(*table, strict=True) if set(column[1:]) != {""}), strict=True))


def _distance_row(report: dict[str, Any], name: str) -> list[object]:
    to = report["distances"].get(name, {})
    test, training, near = to.get(TEST, {}), to.get(TRAIN, {}), report["nearest"].get(name, {})
    figures = [
        test.get("frechet"),
        training.get("frechet"),
        test.get("kernel"),
        test.get("precision"),
        test.get("recall"),
    ]
    percentiles = ", ".join(f"{value:.0f}" for value in near.get("percentiles_1_50", ()))
    return [
        name,
        *("" if value is None else f"{value:.4g}" for value in figures),
        percentiles,
        near.get("copies", ""),
    ]


def _edit_row(edit: dict[str, Any]) -> list[object]:
    cells = []
    for method in METHODS:
        if facts := edit.get(method):
            others = "" if facts["beyond"] is None else f", {facts['beyond']:.1%}"
            kept = f"{facts['bits']:.0f}, {facts['pixels']:.3f}, {facts['own']:.0%}"
            cells.append(f"{facts['success']:.0%} ({kept}{others})")
        else:
            cells.append("")
    ceiling = "" if edit["ceiling"] is None else f"{edit['ceiling']:.0%}"
    return [_title(edit["attribute"], edit["value"]), edit["images"], ceiling, *cells]


def plain(value: Any) -> str:
    """A value of the report as text; entries of a dict are separated by semicolons."""
    if isinstance(value, dict):
        return "; ".join(f"{key}: {inner}" for key, inner in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
