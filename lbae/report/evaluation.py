"""How good a bundle is: Fréchet distances of its reconstructions and of every prior's samples to real images.

Features are those of a small classifier (:mod:`lbae.report.classifier`), so this is a *Fréchet classifier distance*, never
an FID. Metrics are torchmetrics'.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int8
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from lbae.config import ModelConfig
from lbae.core.bundle import Bundle, Images
from lbae.core.memory import nearest_facts
from lbae.core.moments import MomentSums
from lbae.core.prior import Sampler
from lbae.core.samplers import fit
from lbae.errors import UserError
from lbae.io.decode import decode_every
from lbae.io.source import Source
from lbae.report.classifier import Classifier, look
from lbae.report.progress import ProgressLine

_SURE = 0.95
BASELINES: tuple[Sampler, ...] = ("paper", "hyperplane", "gaussian", "direct", "independent")


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Images of a source with their labels as strings."""

    images: Images
    labels: list[str]


def labelled(source: Source, config: ModelConfig) -> Labelled:
    """All images of a source that can be decoded; UserError when it has no ``label`` column."""
    images, labels = [], []
    for part in decode_every(source, config):
        if "label" not in part.rows.column_names:
            raise UserError(f"{source.uri} has no column 'label'; classifier features need one")
        images.append(part.images)
        labels += [str(label) for label in part.rows["label"].to_pylist()]
    return Labelled(images=np.concatenate(images), labels=labels)


def evaluate(
    bundle: Bundle,
    classifier: Classifier,
    test: Labelled,
    train: Labelled,
    moments: MomentSums,
    known: Int8[np.ndarray, "T N"],
    seed: int,
) -> dict[str, Any]:
    """Every figure by name, from as many images of each kind as of ``test``; ``known`` are the training latents."""
    if len(test.images) <= classifier.num_features:
        raise UserError(
            f"{len(test.images)} test images; a Fréchet distance in {classifier.num_features} features needs more of them"
        )
    count = len(test.images)
    distance = FrechetInceptionDistance(feature=_Given(classifier.num_features), reset_real_features=False)
    distance.update(look(classifier, test.images).features, real=True)
    table = {
        "training images": _score(distance, classifier, train.images[:count]),
        "reconstructions": _score(distance, classifier, bundle.reconstruct(test.images)),
    }
    with ProgressLine("evaluate", 1 + len(BASELINES), "priors") as line:
        for done, (name, latents) in enumerate(_drawn(bundle, moments, count, seed), 1):
            table[name] = _score(distance, classifier, bundle.decode(latents)) | nearest_facts(latents, known)
            line.update(done)
    paper, ours, floor = (table[name]["distance"] for name in ("paper", "bundle", "reconstructions"))
    return {
        "images": count,
        "accuracy": _accuracy(classifier, test),
        "table": table,
        "test_latents": nearest_facts(bundle.encode(test.images), known),
        # Of the way from the paper's samples to reconstructions; means nothing where there is no way.
        "gap_closed": round((paper - ours) / (paper - floor), 3) if paper > floor else None,
    }


class _Given(nn.Identity):
    """torchmetrics' feature extractor for features that are at hand already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def _drawn(bundle: Bundle, moments: MomentSums, count: int, seed: int) -> Iterator[tuple[str, Int8[np.ndarray, "K N"]]]:
    yield "bundle", bundle.prior.sample(count, seed)
    for sampler in BASELINES:
        yield sampler, fit(sampler, moments).sample(count, seed)


def _score(distance: FrechetInceptionDistance, classifier: Classifier, images: Images) -> dict[str, float]:
    seen = look(classifier, images)
    distance.reset()
    distance.update(seen.features, real=False)
    sure = (seen.probabilities.amax(dim=1) > _SURE).float().mean()
    return {"distance": round(float(distance.compute()), 2), "sure": round(float(sure), 3)}


def _accuracy(classifier: Classifier, test: Labelled) -> float:
    guessed = look(classifier, test.images).probabilities.argmax(dim=1).tolist()
    return round(float(np.mean([classifier.classes[i] == label for i, label in zip(guessed, test.labels, strict=True)])), 4)
