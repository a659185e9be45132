"""Distances between two sets of images by their features: torch-fidelity's, from sums where they suffice."""

from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from lbae.report.features.feature_sums import NEIGHBOURS, FeatureSums, Metric

KERNEL_SUBSETS, KERNEL_ROWS = 100, 1_000  # as by KID's authors
_CHUNK = 1_000


def distances(reference: FeatureSums, images: FeatureSums, metrics: tuple[Metric, ...]) -> dict[str, float]:
    """The metrics of ``images`` against ``reference``, by name.

    ``frechet`` is the squared Wasserstein distance of two Gaussians (Heusel et al. 2017); ``kernel`` the
    unbiased squared maximum mean discrepancy (Binkowski et al. 2018), with its deviation over subsets where
    there are more images than in a subset; ``precision`` and ``recall`` those of Kynkaanniemi et al. (2019).
    """
    found: dict[str, float] = {}
    pair = images.features(), reference.features()
    if "frechet" in metrics:
        found["frechet"] = fid_statistics_to_metric(images.statistics(), reference.statistics(), False)[
            KEY_METRIC_FID
        ]
    if "kernel" in metrics:
        rows = min(KERNEL_ROWS, *map(len, pair))
        # One subset when every subset would be the whole set.
        subsets = KERNEL_SUBSETS if rows < max(map(len, pair)) else 1
        kernel = kid_features_to_metric(*pair, kid_subsets=subsets, kid_subset_size=rows, verbose=False)
        found["kernel"] = kernel[KEY_METRIC_KID_MEAN]
        if subsets > 1:
            found["kernel_deviation"] = kernel[KEY_METRIC_KID_STD]
    if {"precision", "recall"} & set(metrics):
        options = {
            "prc_neighborhood": NEIGHBOURS,
            "prc_batch_size": _CHUNK,
            "save_cpu_ram": True,
            "verbose": False,
        }
        both = prc_features_to_metric(*pair, **options)
        found |= {name: both[name] for name in ("precision", "recall") if name in metrics}
    return found
