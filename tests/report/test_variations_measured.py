"""Measuring variations: nothing changes at strength 0, and at 1 a latent keeps no more than its component."""

from dataclasses import replace

import numpy as np
import pytest

import lbae
from lbae.core.bundle import Bundle
from lbae.core.latents.packing import pack
from lbae.core.moments.moment_accumulator import sum_packed
from lbae.core.prior.samplers import fit_sampler
from lbae.report.evaluation.variations import VARIED_STRENGTHS, measure_variations
from lbae.report.features.classifier import Attribute, Classifier
from tests.conftest import ROOT

BITS = 11


@pytest.fixture(scope="module")
def latents() -> np.ndarray:
    loadings = np.random.default_rng(0).normal(size=(64, 3)) @ np.random.default_rng(1).normal(size=(3, BITS))
    return np.where(loadings > 0.2, 1, -1).astype(np.int8)


@pytest.fixture(scope="module")
def bundle(latents) -> Bundle:
    """The golden bundle, whose sampler has no thresholds, with another prior."""
    golden = lbae.load_bundle(str(ROOT / "tests" / "golden" / "v1" / "bundle"), "cpu")
    return replace(golden, prior=fit_sampler("gaussian", sum_packed(pack(latents), BITS)))


def test_figures_grow_from_nothing_with_the_strength(bundle, latents):
    classifier = Classifier(1, (Attribute(name="label", column="label", yes=1, no=0),), {}).eval()
    found = measure_variations(bundle, classifier, latents, seed=0)
    unchanged = {"strength": 0, "bits": 0, "pixels": 0, "own": 1, "label kept": 1}
    assert found.by_strength[0] == unchanged
    assert [facts["strength"] for facts in found.by_strength] == list(VARIED_STRENGTHS)
    for name in ("bits", "pixels"):
        values = [facts[name] for facts in found.by_strength]
        assert values[1] > 0
        assert values == sorted(values), "normals are those of the seed at every strength"
    assert np.array_equal(found.shown[:8], bundle.decode(latents[:8]))


def test_each_latent_gets_the_variation_that_the_bundle_gives_it(bundle, latents):
    found = measure_variations(bundle, None, latents, seed=5)
    for facts in found.by_strength:
        varied = bundle.variations.vary(latents, 1, 5, facts["strength"])
        assert facts["bits"] == pytest.approx((varied != latents).sum(axis=1).mean(), abs=0.005)
        assert set(facts) == {"strength", "bits", "pixels", "own"}
