"""Figures are readable on light and on dark pages."""

import io

import numpy as np
from PIL import Image

from lbae.core.moments.attribute_statistics import AttributeStatistics
from lbae.report.figures import plots as figures


def test_the_lifts_have_no_black_ink_for_dark_pages():
    rng = np.random.default_rng(0)
    ones, means = np.ones(2), np.zeros((2, 30))
    statistics = AttributeStatistics(
        names=("a", "b"),
        set_count=ones,
        unset_count=ones,
        mean_if_set=means,
        mean_if_unset=means,
        lift=rng.uniform(-0.1, 0.1, (2, 30)),
        lift_error=means,
    )
    pixels = np.array(Image.open(io.BytesIO(figures.plot_lifts(statistics))).convert("RGBA"))
    opaque = pixels[pixels[..., 3] > 200, :3]
    assert len(opaque) > 1_000
    assert opaque.max(axis=1).min() > 40
