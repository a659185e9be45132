"""Measuring attribute edits: how often a classifier finds the attribute, and what else changed."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int8, UInt8

from lbae.core.bundle import Bundle
from lbae.core.latents.editing import edit
from lbae.core.prior.baselines import paper_edit
from lbae.report.features.classifier import Classifier

METHODS = ("exchange", "bits", "paper")
LATENTS = 1_024  # from which every edit chooses its IMAGES
IMAGES = 128
SHOWN = 8
EDITS = "edits"
_MOST = 20


@dataclass(frozen=True, kw_only=True)
class Edits:
    """The figures of setting or unsetting an attribute, by method.

    ``shown`` holds images before the edit, then the same images after the edit by each method.
    """

    attribute: str
    value: bool
    images: int
    facts: dict[str, dict[str, float | None]]
    shown: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Before:
    """Latents that edits start from, their images, and the attributes that the classifier finds in them."""

    latents: Int8[np.ndarray, "K N"]
    images: UInt8[np.ndarray, "K H W C"]
    had: Bool[np.ndarray, "K A"]


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


def before_edits(bundle: Bundle, classifier: Classifier, latents: Int8[np.ndarray, "K N"]) -> Before:
    """The latents, their images and the attributes found in them, which all edits share."""
    images = bundle.decode(latents)
    return Before(latents=latents, images=images, had=classifier.decide(classifier.features(images)))


def measure_edits(
    bundle: Bundle, classifier: Classifier, before: Before, attribute: str, value: bool
) -> Edits | None:
    """Edit the first latents whose images do not have the attribute as asked; None when all have it.

    The strength is 1. Setting a class of a label unsets the class that the image has.

    In the figures of a method, ``success`` is the share of edited images
    in which the classifier finds the attribute as asked; ``others`` the share of decisions on other columns
    that changed (None where the data has one column); ``pixels`` the root mean square change of pixels in
    [0, 1]. The paper's rule can only set.
    """
    names = [a.name for a in classifier.attributes]
    index = names.index(attribute)
    classes = next(indices for _, indices in classifier.columns if index in indices)
    elsewhere = [indices for _, indices in classifier.columns if index not in indices]
    chosen = np.flatnonzero(before.had[:, index] != value)[:IMAGES]
    if not len(chosen):
        return None
    latents, images, had = before.latents[chosen], before.images[chosen], before.had[chosen]
    lifted = bundle.attributes.lifted
    left = [[names[i] for i in classes if i != index and has[i] and names[i] in lifted] for has in had]
    facts, pictures = {}, [images[:SHOWN]]
    possible = {"paper": value, "exchange": bundle.values is not None}
    for method in METHODS:
        if not possible.get(method, True):
            continue
        asked = [([attribute], unset) if value else ([], [attribute]) for unset in left]
        every = zip(latents[:, None], asked, strict=True)
        edited = np.concatenate([_edited(bundle, latent, *changes, method) for latent, changes in every])
        after = bundle.decode(edited)
        has = classifier.decide(classifier.features(after))
        changed = [(has != had)[:, indices].any(axis=1).mean() for indices in elsewhere]
        facts[method] = {
            "success": round(float((has[:, index] == value).mean()), 4),
            "bits": round(float((edited != latents).sum(axis=1).mean()), 2),
            "others": round(float(np.mean(changed)), 4) if elsewhere else None,
            "pixels": round(
                float(np.sqrt(np.square(after / 255 - images / 255).mean(axis=(1, 2, 3))).mean()), 4
            ),
        }
        pictures.append(after[:SHOWN])
    return Edits(
        attribute=attribute, value=value, images=len(chosen), facts=facts, shown=np.concatenate(pictures)
    )


def _edited(
    bundle: Bundle, latents: Int8[np.ndarray, "K N"], set_: list[str], unset: list[str], method: str
) -> Int8[np.ndarray, "K N"]:
    if method == "paper":
        return paper_edit(bundle.attributes.mean_if_set[bundle.attributes.index(set_[0])], latents)
    return edit(bundle.attributes, bundle.values, latents, set_, unset, method=method)
