"""Precision and recall equal torch-fidelity's, on sets of any size and with copies."""

import numpy as np
import pytest
from torch_fidelity.metric_prc import prc_features_to_metric

from lbae.report.features.feature_sums import NEIGHBOURS, FeatureSums
from lbae.report.features.precision_recall import precision_recall, radii


def sums_of(features: np.ndarray) -> FeatureSums:
    sums = FeatureSums.empty(features.shape[1])
    sums.add(features, np.ones(len(features), dtype=bool))
    return sums


def theirs(images: FeatureSums, reference: FeatureSums) -> dict[str, float]:
    found = prc_features_to_metric(
        images.features(),
        reference.features(),
        prc_neighborhood=NEIGHBOURS,
        prc_batch_size=1_000,
        save_cpu_ram=True,
        verbose=False,
    )
    return {name: found[name] for name in ("precision", "recall")}


@pytest.mark.parametrize(("images", "known"), [(6, 9), (999, 1_000), (1_001, 2_345), (2_500, 1_700)])
@pytest.mark.parametrize("dim", [8, 128])
def test_precision_and_recall_equal_torch_fidelitys(images, known, dim):
    rng = np.random.default_rng(images)
    reference = rng.normal(size=(known, dim)).astype(np.float32)
    made = (0.9 * rng.normal(size=(images, dim)) + 0.1).astype(np.float32)
    made[: images // 4] = reference[: images // 4]  # such as reconstructions without an error
    one, other = sums_of(made), sums_of(reference)
    assert precision_recall(other, one, radii(other), radii(one)) == theirs(one, other)


def test_precision_is_about_the_images_and_recall_about_the_reference():
    """Images of one of two far apart clusters are all likely, and cover half of the reference."""
    rng = np.random.default_rng(0)
    near, far = (
        rng.normal(size=(2, 400, 4)).astype(np.float32) + np.array([0, 100], np.float32)[:, None, None]
    )
    reference, images = sums_of(np.concatenate([near, far])), sums_of(near[:200])
    found = precision_recall(reference, images, radii(reference), radii(images))
    assert found["precision"] == 1.0
    assert found["recall"] == pytest.approx(0.5, abs=0.05)
