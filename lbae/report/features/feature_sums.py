"""Sums of image features with a sample of their rows, and the number of images that a metric needs."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64

from lbae.errors import LbaeError, UserError

Metric = Literal["frechet", "kernel", "precision", "recall"]
METRICS: tuple[Metric, ...] = get_args(Metric)
KEPT = 10_000  # images whose features are kept; all others enter the sums only
NEIGHBOURS = 3  # for precision and recall

Features = Float32[np.ndarray, "K D"]


def drawn_rows(rows: int, most: int) -> Int64[np.ndarray, "R"]:
    """At most ``most`` rows, in random order and always the same.

    Random rows, because sources are often sorted by class or hold the classes in turn.
    """
    return np.random.default_rng(0).choice(rows, min(rows, most), replace=False)


@dataclass(kw_only=True)
class FeatureSums:
    """Count, sums and sums of products of features, float64, and the features of some images themselves."""

    count: int
    total: Float64[np.ndarray, "D"]
    products: Float64[np.ndarray, "D D"]
    kept: list[Features] = field(default_factory=list)

    @classmethod
    def empty(cls, dim: int) -> "FeatureSums":
        """The sums of no images."""
        return cls(count=0, total=np.zeros(dim), products=np.zeros((dim, dim)))

    def add(self, features: Features, keep: Bool[np.ndarray, "K"]) -> None:
        """Add features, and keep the rows that ``keep`` marks; LbaeError when any are not finite."""
        if not np.isfinite(features).all():
            bad = int((~np.isfinite(features)).any(axis=1).sum())
            raise LbaeError(
                f"{bad} of {len(features)} images have features that are not finite; are the weights damaged?"
            )
        exact = features.astype(np.float64)
        self.total += exact.sum(axis=0)
        self.products += exact.T @ exact
        self.kept.append(features[keep])
        self.count += len(features)

    def drawn(self, most: int) -> "FeatureSums":
        """The sums of at most ``most`` of the images whose features are kept, drawn at random."""
        features = np.concatenate(self.kept)
        sums, rows = FeatureSums.empty(features.shape[1]), drawn_rows(len(features), most)
        sums.add(features[rows], np.ones(len(rows), dtype=bool))
        return sums

    def features(self) -> torch.Tensor:
        """The features that are kept."""
        return torch.from_numpy(np.concatenate(self.kept))

    def statistics(self) -> dict[str, np.ndarray]:
        """Mean and covariance under the names that torch-fidelity uses."""
        mean = self.total / self.count
        return {"mu": mean, "sigma": (self.products - self.count * np.outer(mean, mean)) / (self.count - 1)}


def chosen_metrics(names: Iterable[Metric]) -> tuple[Metric, ...]:
    """Return the metrics once each, in the order of METRICS."""
    return tuple(metric for metric in METRICS if metric in names)


def check_count(count: int, dim: int, metrics: tuple[Metric, ...], what: str) -> None:
    """Raise UserError when there are too few images for a metric."""
    others = " ".join(f"--metrics {metric}" for metric in METRICS if metric != "frechet")
    if "frechet" in metrics and count <= dim:
        raise UserError(
            f"{what}: {count}; a Fréchet distance in {dim} features needs more than {dim}: give more, or ask"
            f" for {others}"
        )
    if count < 2 * NEIGHBOURS:
        raise UserError(f"{what}: {count}; at least {2 * NEIGHBOURS} are needed")
