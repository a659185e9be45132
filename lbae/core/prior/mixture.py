"""Mixtures: clusters of images with their own latent moments, and how much to shrink those of small clusters.

Images are clustered by what they look like (:mod:`lbae.core.prior.appearance`). Clusters with very few rows
for their bits are shrunk toward the pooled within-cluster correlations. The amount a is the one with the best
mean log density of held-out latents under

    sum_c w_c N(y; mu_c, (1 - a) S_c + a W + 0.01 I)

with S_c the covariance of cluster c and W the pooled one. This score needs no repaired matrix. It is reported
beside the number of clusters but does not choose it: on balanced bits it prefers worse images
(docs/measurements.md).
"""

import warnings
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Float64, Int8, Int64
from scipy import linalg
from scipy.cluster.vq import kmeans2
from scipy.special import logsumexp

from lbae.core.latents.packing import pack
from lbae.core.moments.moment_accumulator import sum_packed

_SHRINKAGES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
_NOISE = 0.01

Latents = Int8[np.ndarray, "K N"]
HeldOut = Int8[np.ndarray, "H N"]
Labels = Int64[np.ndarray, "K"]
Points = Float32[np.ndarray, "K F"]
Centers = Float32[np.ndarray, "C F"]


def cluster_centers(points: Points, components: int, seed: int) -> Centers:
    """Return k-means centres; clusters that end up empty are dropped.

    k-means starts from random points, which are as good here as k-means++ and far faster.
    """
    if not 1 <= components <= len(points):
        raise ValueError(
            f"{components} components were asked for; allowed: 1 to {len(points)}, the number of points"
        )
    if components == 1:
        return points.mean(axis=0, keepdims=True)
    rng = np.random.default_rng(seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "One of the clusters is empty")
        centers, labels = kmeans2(points, components, minit="points", iter=25, rng=rng)
    used = np.bincount(labels, minlength=components) > 0
    return centers[used].astype(np.float32)


def nearest_center(points: Points, centers: Centers) -> Labels:
    """Index of the nearest centre of each point; ties go to the smallest index."""
    offset = 0.5 * np.einsum("cf,cf->c", centers, centers)
    return (points @ centers.T - offset).argmax(axis=1)


def within_covariance(latents: Latents, labels: Labels) -> Float64[np.ndarray, "N N"]:
    """Covariance of the latents about the means of their clusters, pooled over the clusters."""
    between = np.zeros((latents.shape[1],) * 2)
    for label in np.unique(labels):
        mean = latents[labels == label].mean(axis=0)
        between += (labels == label).mean() * np.outer(mean, mean)
    return sum_packed(pack(latents), latents.shape[1]).second - between


def shrink(
    mean: Float64[np.ndarray, "N"],
    second: Float64[np.ndarray, "N N"],
    within: Float64[np.ndarray, "N N"],
    amount: float,
) -> Float64[np.ndarray, "N N"]:
    """E[y yT] of a cluster, with correlations shrunk by ``amount`` toward those of the pooled ``within``.

    Correlations are mixed, not covariances, so that every bit keeps its mean and variance.
    """
    deviation = np.sqrt(np.maximum(np.diag(within), 0))
    scale = np.divide(
        np.sqrt(np.maximum(1 - mean**2, 0)), deviation, out=np.zeros_like(mean), where=deviation > 0
    )
    pooled = np.outer(mean, mean) + scale[:, None] * within * scale
    shrunk = (1 - amount) * second + amount * pooled
    np.fill_diagonal(shrunk, 1.0)
    return shrunk


@dataclass(frozen=True, kw_only=True)
class ScoredPartition:
    """A partition, its best shrinkage, and the mean log density of held-out latents in nats per latent.

    ``nats`` is NaN when no latents were held out; the shrinkage is then the largest tried.
    """

    components: int
    nats: float
    shrinkage: float
    within: Float64[np.ndarray, "N N"]
    centers: Centers | None = None

    def facts(self) -> dict[str, float | int | None]:
        """The entries about this partition in a job's result."""
        nats = None if np.isnan(self.nats) else round(self.nats, 3)
        return {"components": self.components, "held_out_nats": nats, "shrinkage": self.shrinkage}


def try_clusters(
    train: Latents, points: Points, held_out: HeldOut, components: int, seed: int
) -> ScoredPartition:
    """Cluster training latents by k-means on ``points``, their images' appearance, and score the clusters."""
    centers = cluster_centers(points, components, seed)
    return replace(try_partition(train, nearest_center(points, centers), held_out), centers=centers)


def try_partition(train: Latents, labels: Labels, held_out: HeldOut) -> ScoredPartition:
    """Score a given partition of the training latents at every shrinkage, and keep the best.

    A single component has nothing to shrink toward, so its shrinkage is 0.
    """
    within = within_covariance(train, labels)
    clusters = np.unique(labels)
    shrinkages = _SHRINKAGES if len(clusters) > 1 else (0.0,)
    if not len(held_out):
        return ScoredPartition(components=len(clusters), nats=np.nan, shrinkage=shrinkages[-1], within=within)
    logs = np.empty((len(shrinkages), len(clusters), len(held_out)))
    for c, label in enumerate(clusters):
        sums = sum_packed(pack(train[labels == label]), train.shape[1])
        weight = np.log(sums.count / len(train))
        covariance = sums.second - np.outer(sums.mean, sums.mean)
        for s, amount in enumerate(shrinkages):
            logs[s, c] = weight + _log_density(
                held_out, sums.mean, (1 - amount) * covariance + amount * within
            )
    nats = logsumexp(logs, axis=1).mean(axis=1)
    best = int(nats.argmax())
    return ScoredPartition(
        components=len(clusters), nats=float(nats[best]), shrinkage=shrinkages[best], within=within
    )


def _log_density(
    points: Latents, mean: Float64[np.ndarray, "N"], covariance: Float64[np.ndarray, "N N"]
) -> Float64[np.ndarray, "K"]:
    """Log density of each point under a Gaussian with ``_NOISE`` added to its variances."""
    factor = linalg.cholesky(
        covariance + _NOISE * np.eye(len(mean)), lower=True, overwrite_a=True, check_finite=False
    )
    white = linalg.solve_triangular(
        factor, points.T - mean[:, None], lower=True, overwrite_b=True, check_finite=False
    )
    normaliser = np.log(np.diag(factor)).sum() + 0.5 * len(mean) * np.log(2 * np.pi)
    return -0.5 * np.einsum("nh,nh->h", white, white) - normaliser
