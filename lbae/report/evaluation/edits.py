"""Measuring attribute edits: how often a classifier finds the attribute, and what else changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int8, Int64, UInt8

from lbae.core.bundle import Bundle
from lbae.core.latents.editing import edit
from lbae.core.latents.hamming import nearest
from lbae.core.latents.packing import pack
from lbae.core.prior.baselines import paper_edit
from lbae.report.evaluation.streams import FOUND, MEMBERS
from lbae.report.features.classifier import Classifier
from lbae.report.features.distances import frechet
from lbae.report.features.feature_sums import FeatureSums

# The strengths at which each method is measured; the paper's rule has none.
STRENGTHS = {"exchange": (0.5, 1.0, 1.5, 2.0), "bits": (0.5, 1.0), "paper": (1.0,)}
METHODS = tuple(STRENGTHS)
LATENTS = 1_024  # from which every edit chooses its IMAGES
IMAGES = 128
SHOWN = 8
EDITS, BEFORE = "edits", "reconstructions"
_MOST = 20


Facts = dict[str, float | None]
Asked = tuple[tuple[str, ...], tuple[str, ...]]  # names to set, names to unset


@dataclass(frozen=True, kw_only=True)
class Edits:
    """The figures of setting or unsetting an attribute, by method: at strength 1, and at every strength.

    ``shown`` holds some images before the edit, then the same images edited by each method at strength 1.
    ``features`` are those of all images, by :data:`BEFORE` and method. ``ceiling`` is what success can reach:
    of reconstructions of images with the value, the share in which the classifier finds it. None if unknown.
    """

    attribute: str
    value: bool
    images: int
    facts: dict[str, Facts]
    by_strength: dict[str, list[Facts]]
    features: dict[str, Float32[np.ndarray, "K D"]]
    shown: np.ndarray
    ceiling: float | None = None


@dataclass(frozen=True, kw_only=True)
class Before:
    """Latents that edits start from, their images, and the attributes that the classifier finds in them.

    ``originals`` are the attributes that it finds in the test images themselves.
    """

    latents: Int8[np.ndarray, "K N"]
    images: UInt8[np.ndarray, "K H W C"]
    had: Bool[np.ndarray, "K A"]
    originals: Bool[np.ndarray, "K A"]


def plan_edits(bundle: Bundle, classifier: Classifier) -> tuple[list[tuple[str, bool]], dict[str, str]]:
    """The edits to measure, as (attribute, value), and what is left out, with the reason.

    Every attribute that the classifier knows and that lifts any bits is set; one that is not a class of a
    label is also unset.
    """
    sizes = {
        classifier.attributes[i].name: len(indices) for _, indices in classifier.columns for i in indices
    }
    known = [name for name in bundle.attributes.lifted if name in sizes]
    wanted = [(name, value) for name in known for value in ((True,) if sizes[name] > 1 else (True, False))]
    if not wanted:
        return [], {EDITS: "the bundle has no attributes that the classifier knows and that lift any bits"}
    left_out = {}
    if len(wanted) > _MOST:
        left_out[EDITS] = f"{len(wanted) - _MOST} of {len(wanted)} edits: only the first {_MOST} are measured"
    if bundle.values is None:
        left_out["edits by exchange"] = (
            "the bundle has no models of attribute values, because an earlier version fitted it: fit it again"
        )
    return wanted[:_MOST], left_out


def before_edits(
    bundle: Bundle,
    classifier: Classifier,
    latents: Int8[np.ndarray, "K N"],
    originals: Bool[np.ndarray, "K A"],
) -> Before:
    """The latents, their images and the attributes found in them, which all edits share."""
    images = bundle.decode(latents)
    had = classifier.decide(classifier.features(images))
    return Before(latents=latents, images=images, had=had, originals=originals)


def measure_edits(
    bundle: Bundle, classifier: Classifier, before: Before, attribute: str, value: bool
) -> Edits | None:
    """Edit latents whose images do not have the attribute as asked; None when all have it.

    Each attribute has other latents, as far as they suffice, so that the edits to the classes of a label are
    not all of the same images. Setting a class of a label unsets the class that the image has. The paper's
    rule can only set.

    In the figures of a method, ``success`` is the share of edited images in which the classifier finds the
    attribute as asked; ``others`` the share of decisions on other columns that changed; ``beyond`` the share
    of them that differ from the original images, beyond those that differ before the edit; ``pixels`` the
    root mean square change of pixels in [0, 1]; ``own`` the share of edited latents to which none of the
    latents before is nearer than their own. ``others`` and ``beyond`` are None where the data has one column.
    """
    names = [a.name for a in classifier.attributes]
    index = names.index(attribute)
    classes = next(indices for _, indices in classifier.columns if index in indices)
    chosen = np.roll(np.flatnonzero(before.had[:, index] != value), -IMAGES * index)[:IMAGES]
    if not len(chosen):
        return None
    latents, images, lifted = before.latents[chosen], before.images[chosen], bundle.attributes.lifted
    had, originals = before.had[chosen], before.originals[chosen]
    asked: list[Asked] = [((), (attribute,))] * len(chosen)
    if value:
        there = [[i for i in classes if i != index and has[i]] for has in had]
        asked = [((attribute,), tuple(names[i] for i in some if names[i] in lifted)) for some in there]
    by_strength: dict[str, list[Facts]] = {}
    features, shown = {BEFORE: classifier.features(images).numpy()}, [images[:SHOWN]]
    possible = {"paper": value, "exchange": bundle.values is not None}
    for method, strengths in STRENGTHS.items():
        for strength in strengths if possible.get(method, True) else ():
            edited = _edited_as(bundle, latents, asked, strength, method)
            after = bundle.decode(edited)
            seen = classifier.features(after)
            has = classifier.decide(seen)
            facts: Facts = {
                "success": round(float((has[:, index] == value).mean()), 4),
                "others": _changed(classifier, index, has, had),
                "beyond": _beyond(classifier, index, has, had, originals),
                **_changes(before, chosen, edited, after),
            }
            by_strength.setdefault(method, []).append({"strength": strength, **facts})
            if strength == 1:
                features[method] = seen.numpy()
                shown.append(after[:SHOWN])
    return Edits(
        attribute=attribute,
        value=value,
        images=len(chosen),
        facts={
            method: {name: fact for name, fact in facts.items() if name != "strength"}
            for method, every in by_strength.items()
            for facts in every
            if facts["strength"] == 1
        },
        by_strength=by_strength,
        features=features,
        shown=np.concatenate(shown),
    )


def _changed(
    classifier: Classifier, index: int, has: Bool[np.ndarray, "K A"], had: Bool[np.ndarray, "K A"]
) -> float | None:
    """The share of decisions that changed, on columns other than that of the attribute at ``index``."""
    others = [indices for _, indices in classifier.columns if index not in indices]
    if not others:
        return None
    changed = has != had
    return round(float(np.mean([changed[:, indices].any(axis=1).mean() for indices in others])), 4)


def _beyond(
    classifier: Classifier,
    index: int,
    has: Bool[np.ndarray, "K A"],
    had: Bool[np.ndarray, "K A"],
    originals: Bool[np.ndarray, "K A"],
) -> float | None:
    """The share of decisions that differ from the original images, beyond those that differed before."""
    after, before = (_changed(classifier, index, decisions, originals) for decisions in (has, had))
    return None if after is None or before is None else round(after - before, 4)


def _changes(
    before: Before,
    chosen: Int64[np.ndarray, "K"],
    edited: Int8[np.ndarray, "K N"],
    after: UInt8[np.ndarray, "K H W C"],
) -> Facts:
    """How far edited latents and their images lie from those before."""
    flips = (edited != before.latents[chosen]).sum(axis=1)
    nearest_flips = nearest(pack(edited), pack(before.latents), 1)[0][:, 0]
    moved = np.sqrt(np.square(after / 255 - before.images[chosen] / 255).mean(axis=(1, 2, 3)))
    return {
        "bits": round(float(flips.mean()), 2),
        "pixels": round(float(moved.mean()), 4),
        "own": round(float((flips == nearest_flips).mean()), 4),
    }


def edit_ceiling(sums: Mapping[str, float], attribute: str, value: bool) -> float | None:
    """The share of images with the value in whose reconstructions the classifier finds it; None for none.

    ``sums`` are those of the reconstructions.
    """
    members = sums.get(f"{MEMBERS} {attribute} {value}", 0.0)
    return round(sums[f"{FOUND} {attribute} {value}"] / members, 4) if members else None


def edit_distances(
    edits: Sequence[Edits], classifier: Classifier, reference: FeatureSums
) -> dict[str, dict[str, float]]:
    """Fréchet distance to test images of all images edited to classes of a column, by column and method.

    At strength 1, beside that of the reconstructions before the edit. A column is left out where there are
    too few images for the number of features.
    """
    found: dict[str, dict[str, float]] = {}
    for column, indices in classifier.columns:
        names = {classifier.attributes[i].name for i in indices}
        edited = [edit.features for edit in edits if edit.attribute in names] if len(names) > 1 else []
        for method in (BEFORE, *METHODS):
            features = [some[method] for some in edited if method in some]
            if sum(map(len, features)) > classifier.num_features:
                sums = FeatureSums.empty(classifier.num_features)
                for some in features:
                    sums.add(some, np.ones(len(some), dtype=bool))
                found.setdefault(column, {})[method] = round(frechet(reference, sums)["frechet"], 4)
    return found


def _edited_as(
    bundle: Bundle, latents: Int8[np.ndarray, "K N"], asked: Sequence[Asked], strength: float, method: str
) -> Int8[np.ndarray, "K N"]:
    """Each latent edited as asked of it; those that are asked the same together, which is faster."""
    edited = np.empty_like(latents)
    for one in set(asked):
        rows = [row for row, other in enumerate(asked) if other == one]
        edited[rows] = _edited(bundle, latents[rows], *one, strength, method)
    return edited


def _edited(
    bundle: Bundle,
    latents: Int8[np.ndarray, "K N"],
    set_: Sequence[str],
    unset: Sequence[str],
    strength: float,
    method: str,
) -> Int8[np.ndarray, "K N"]:
    if method == "paper":
        return paper_edit(bundle.attributes.mean_if_set[bundle.attributes.index(set_[0])], latents)
    return edit(bundle.attributes, bundle.values, latents, set_, unset, strength, method)
