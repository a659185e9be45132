"""Distances between two sets of images by their features: torch-fidelity's, from sums where they suffice."""

from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

from lbae.report.features.feature_sums import FeatureSums

KERNEL_SUBSETS, KERNEL_ROWS = 100, 1_000  # as by KID's authors


def frechet(reference: FeatureSums, images: FeatureSums) -> dict[str, float]:
    """``frechet``, the squared Wasserstein distance of two Gaussians (Heusel et al. 2017)."""
    found = fid_statistics_to_metric(images.statistics(), reference.statistics(), False)
    return {"frechet": found[KEY_METRIC_FID]}


def kernel(reference: FeatureSums, images: FeatureSums) -> dict[str, float]:
    """``kernel``, the unbiased squared maximum mean discrepancy (Binkowski et al. 2018).

    With its deviation over subsets where there are more images than in a subset.
    """
    pair = images.features(), reference.features()
    rows = min(KERNEL_ROWS, *map(len, pair))
    # One subset when every subset would be the whole set.
    subsets = KERNEL_SUBSETS if rows < max(map(len, pair)) else 1
    found = kid_features_to_metric(*pair, kid_subsets=subsets, kid_subset_size=rows, verbose=False)
    mean = {"kernel": found[KEY_METRIC_KID_MEAN]}
    return mean | ({"kernel_deviation": found[KEY_METRIC_KID_STD]} if subsets > 1 else {})
