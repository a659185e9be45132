"""Measuring variations of images over their strength: what stays of bits, pixels and attributes."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int8, UInt8

from lbae.core.bundle import Bundle
from lbae.core.latents.hamming import nearest
from lbae.core.latents.packing import pack
from lbae.report.features.classifier import Classifier

VARIATIONS = "variations"
VARIED_STRENGTHS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
VARIED = 128  # latents, each with one variation per strength
VARIED_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Varied:
    """The figures of variations at every strength, and the first variations: a row per strength."""

    by_strength: list[dict[str, float]]
    shown: UInt8[np.ndarray, "I H W C"]


def measure_variations(
    bundle: Bundle, classifier: Classifier | None, latents: Int8[np.ndarray, "K N"], seed: int
) -> Varied:
    """Vary each latent once at each strength, and compare with its image.

    Per strength: ``bits`` that differ; ``pixels``, the root mean square change of pixels in [0, 1]; ``own``,
    the share of varied latents to which none of the latents is nearer than their own; and per column of the
    classifier the share of its decisions that stay.
    """
    before = bundle.decode(latents)
    decided = None if classifier is None else classifier.decide(classifier.features(before))
    # The model of a component is computed once if the latents of a component come one after another.
    order = np.argsort(bundle.variations.components(latents), kind="stable")
    varied = np.empty((len(VARIED_STRENGTHS), *latents.shape), dtype=np.int8)
    for row in order:
        for place, strength in enumerate(VARIED_STRENGTHS):
            varied[place, row] = bundle.variations.vary(latents[row : row + 1], 1, seed, strength)[0]
    by_strength, shown = [], []
    for strength, some in zip(VARIED_STRENGTHS, varied, strict=True):
        images = bundle.decode(some)
        shown.append(images[:VARIED_SHOWN])
        flips = (some != latents).sum(axis=1)
        moved = np.sqrt(np.square(images / 255 - before / 255).mean(axis=(1, 2, 3)))
        facts = {
            "strength": strength,
            "bits": round(float(flips.mean()), 2),
            "pixels": round(float(moved.mean()), 4),
            "own": round(float((flips == nearest(pack(some), pack(latents), 1)[0][:, 0]).mean()), 4),
        }
        if classifier is not None and decided is not None:
            same = classifier.decide(classifier.features(images)) == decided
            facts |= {
                f"{column} kept": round(float(same[:, indices].all(axis=1).mean()), 4)
                for column, indices in classifier.columns
            }
        by_strength.append(facts)
    return Varied(by_strength=by_strength, shown=np.concatenate(shown))
