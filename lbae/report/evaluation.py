"""How good a bundle is: Fréchet distances of its reconstructions and of every prior's samples to real images.

Features are those of a small classifier (:mod:`lbae.report.classifier`), so this is a *Fréchet classifier distance*, never
an FID. Metrics are torchmetrics'.
"""

import json
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
from lbae.core.packing import unpack
from lbae.core.prior import Sampler
from lbae.core.samplers import fit
from lbae.errors import UserError
from lbae.io import artifact
from lbae.io.artifact import read_manifest
from lbae.io.bundle import load_bundle
from lbae.io.decode import decode_every
from lbae.io.latent_table import open_latent_table, packed_latents
from lbae.io.moments import load_moments
from lbae.io.source import Source, plan
from lbae.io.storage import absolute, resolve
from lbae.report.classifier import Classifier, load_or_train, look
from lbae.report.progress import ProgressLine

KIND = "evaluation"
_REPORT = "report.json"
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
    *,
    bundle: str,
    data: str,
    train_data: str,
    latents: str,
    moments: str,
    classifier: str,
    out: str,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Score a bundle on test images.

    Args:
        bundle: URI of the bundle.
        data: URI of the test images, with a column label.
        train_data: URI of the training images, with a column label.
        latents: URI of the training images' latent table, to see whether samples repeat it.
        moments: URI of its moment sums, from which the baselines are fitted.
        classifier: URI of the classifier whose features are compared; trained on the training images when there is none.
        out: URI of the evaluation, a folder with report.json.
        seed: seed of the samples.
        overwrite: replace another artifact at ``out``.
    """
    loaded, manifest = load_bundle(bundle), read_manifest(bundle)
    table, (sums, sums_manifest) = open_latent_table(absolute(latents)), load_moments(moments)
    for name, uri, found in (("latents", latents, table.manifest), ("moments", moments, sums_manifest)):
        if found.fingerprint != manifest.parents[name]:
            raise UserError(f"bundle {bundle} was fitted from {name} {manifest.parents[name]}; {uri} is {found.fingerprint}")
    source, tested = plan(absolute(train_data)), plan(data)
    parents = {"bundle": loaded.fingerprint, "data": tested.fingerprint, "train_data": source.fingerprint}
    done = artifact.begin(out, KIND, parents, {"seed": seed}, overwrite)
    if done:
        return done
    test, train = labelled(tested, loaded.codec.config), labelled(source, loaded.codec.config)
    network, fingerprint = load_or_train(classifier, train.images, train.labels, source.fingerprint)
    known = unpack(np.concatenate([packed_latents(table.read(part, ["latent"])) for part in table.parts]), table.latent_dim)
    report = score(loaded, network, test, train, sums, known, seed) | {"classifier": fingerprint}
    text = json.dumps(report, indent=2).encode()
    (resolve(out) / _REPORT).write_bytes(text)
    rows, named = len(test.images), artifact.digest(text)
    return artifact.publish(
        out, KIND, fingerprint=named, parents=parents, config={"seed": seed}, rows=rows, files=[_REPORT], result=report
    )


def score(
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
