"""The results of an evaluation, and what it leaves out because an input is missing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lbae.core.moments.moment_accumulator import sum_packed
from lbae.core.moments.moment_sums import MomentSums
from lbae.report.evaluation.cache import Reference
from lbae.report.evaluation.edits import EDITS, Edits
from lbae.report.evaluation.inputs import EvaluationInputs
from lbae.report.evaluation.interpolations import Paths
from lbae.report.evaluation.settings import COINS, MIXTURE, PRIORS, EvaluationSettings
from lbae.report.evaluation.streams import KNOWN, RECONSTRUCTIONS, RIGHT, Stream
from lbae.report.evaluation.variations import VARIATIONS, Varied
from lbae.report.features.classifier import Classifier

ACCURACY, BESIDE = "classifier accuracy", "training images beside samples"
NEAREST = 3  # training images shown below each sample
NEEDS_LABELS = "needs --train-data with labels or attributes"
_DISTANCE = "distances to training images"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The results of an evaluation.

    A result whose input is missing is empty, and ``left_out`` says why. ``fingerprints`` are those of the
    networks; ``accuracy`` is the classifier's share of correct decisions per column.
    """

    streams: Mapping[str, Stream]
    references: Mapping[str, Reference]
    distances: dict[str, dict[str, dict[str, float]]]
    accuracy: dict[str, float]
    rates: dict[str, list[tuple[float, float]]]
    nearest: dict[str, dict[str, Any]] = field(default_factory=dict)
    neighbours: np.ndarray | None = None
    paths: Mapping[str, Paths] = field(default_factory=dict)
    edits: list[Edits] = field(default_factory=list)
    edit_distances: dict[str, dict[str, float]] = field(default_factory=dict)
    variations: Varied | None = None
    overlap: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def sampled_moments(self, latent_dim: int) -> dict[str, MomentSums]:
        """The moments of the samples of every prior, and of the test images' latents."""
        priors: dict[str, Stream] = {name: stream for name, stream in self.streams.items() if name in PRIORS}
        named = {"test latents": self.streams[RECONSTRUCTIONS], **priors}
        return {name: sum_packed(stream.latents, latent_dim) for name, stream in named.items()}


def left_out_by(inputs: EvaluationInputs, settings: EvaluationSettings) -> dict[str, str]:
    """What cannot be measured with these inputs and settings, with the reason for each."""
    left: dict[str, str] = {}
    if inputs.moments is None:
        fitted = [f"prior {name}" for name in settings.priors if name not in (MIXTURE, COINS)]
        left |= dict.fromkeys([*fitted, "moments of samples, slide 16's figures"], "needs --moments")
    if inputs.train is None:
        left |= dict.fromkeys([EDITS, ACCURACY], NEEDS_LABELS)
        left |= dict.fromkeys(["overlap with training images", _DISTANCE], "needs --train-data")
    elif settings.protocol == "paper":
        left[_DISTANCE] = "the paper's protocol compares with test images only"
    elif "frechet" not in settings.metrics:
        left[_DISTANCE] = "frechet is the only metric that is measured against training images"
    if inputs.bundle.prior.sampler != "gaussian":
        left[VARIATIONS] = f"the bundle's sampler is {inputs.bundle.prior.sampler}; needs gaussian"
    if inputs.latents is None:
        left["nearest training latents"] = "needs --latents"
    if not (inputs.latents and inputs.train and MIXTURE in settings.priors):
        left[BESIDE] = "needs --latents, --train-data and the prior mixture"
    return left


def classifier_accuracy(
    sums: Mapping[str, float], classifier: Classifier
) -> tuple[dict[str, float], dict[str, str]]:
    """The share of test images decided right, per column, and the columns left out, with the reason.

    ``sums`` are those over the test images.
    """
    shares: dict[str, float] = {}
    left_out = {
        f"{ACCURACY}, {column}": f"the column of the training images has {reason}"
        for column, reason in classifier.unusable.items()
    }
    for column, _ in classifier.columns:
        right, known = (sums.get(f"{what} {column}", 0.0) for what in (RIGHT, KNOWN))
        if known:
            shares[column] = round(right / known, 4)
        else:
            left_out[f"{ACCURACY}, {column}"] = (
                "the test images have no such column, or none with values of the training images' type"
            )
    return shares, left_out
