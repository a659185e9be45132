"""Mixtures of moments: clusters of latents, each with moments of its own, and how many of them to use."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int8, Int64
from scipy import linalg
from scipy.cluster.vq import kmeans2
from scipy.special import logsumexp

_SHRINKAGES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
_NOISE = 0.01


def cluster_centers(latents: Int8[np.ndarray, "K N"], components: int, seed: int) -> Float32[np.ndarray, "C N"]:
    """k-means centres of the latents as real vectors (squared Euclidean distance is 4 times Hamming's).

    Clusters that end up empty are dropped. Starting from random latents is as good here as k-means++ and far quicker.
    """
    if not 1 <= components <= len(latents):
        raise ValueError(f"{components} components were asked for; allowed: 1 to the {len(latents)} latents at hand")
    if components == 1:
        return latents.mean(axis=0, keepdims=True, dtype=np.float32)
    rng = np.random.default_rng(seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "One of the clusters is empty")
        centers, labels = kmeans2(latents.astype(np.float32), components, minit="points", iter=25, rng=rng)
    used = np.bincount(labels, minlength=components) > 0
    return centers[used].astype(np.float32)


def nearest_center(latents: Int8[np.ndarray, "K N"], centers: Float32[np.ndarray, "C N"]) -> Int64[np.ndarray, "K"]:
    """Index of the nearest centre; the smallest index among equals."""
    offset = 0.5 * np.einsum("cn,cn->c", centers, centers)
    scores = latents.astype(np.float32) @ centers.T - offset
    return scores.argmax(axis=1)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A number of components with its best held-out score, in nats a latent."""

    components: int
    score: float
    shrinkage: float


def held_out_score(
    train: Int8[np.ndarray, "K N"],
    labels: Int64[np.ndarray, "K"],
    held_out: Int8[np.ndarray, "H N"],
) -> tuple[float, float]:
    """Best mean log density of held-out latents over the shrinkages, and that shrinkage.

    The density is sum_c w_c N(y; mu_c, (1 - a) S_c + a W + 0.01 I), W the pooled within-cluster covariance. Unlike the
    Fréchet distance it cannot be won by remembering, and unlike pairwise likelihood it sees the number of components.
    """
    groups = [train[labels == c].astype(np.float64) for c in np.unique(labels)]
    means = [group.mean(axis=0) for group in groups]
    scatters = [(group - mean).T @ (group - mean) for group, mean in zip(groups, means, strict=True)]
    pooled = sum(scatters) / len(train)
    points = held_out.astype(np.float64)

    def score(shrinkage: float) -> float:
        logs = np.empty((len(groups), len(points)))
        for c, (group, mean, scatter) in enumerate(zip(groups, means, scatters, strict=True)):
            covariance = (1 - shrinkage) * scatter / len(group) + shrinkage * pooled
            factor = linalg.cholesky(covariance + _NOISE * np.eye(len(mean)), lower=True)
            white = linalg.solve_triangular(factor, (points - mean).T, lower=True)
            normaliser = np.log(np.diag(factor)).sum() + 0.5 * len(mean) * np.log(2 * np.pi)
            logs[c] = np.log(len(group) / len(train)) - 0.5 * np.einsum("nh,nh->h", white, white) - normaliser
        return float(logsumexp(logs, axis=0).mean())

    best = max(_SHRINKAGES, key=score)
    return score(best), best


def choose_components(
    latents: Int8[np.ndarray, "K N"],
    held_out: Bool[np.ndarray, "K"],
    candidates: Sequence[int],
    seed: int,
) -> list[Candidate]:
    """Score every candidate number of k-means components, best first."""
    train, test = latents[~held_out], latents[held_out]
    table = []
    for components in candidates:
        labels = nearest_center(train, cluster_centers(train, components, seed))
        score, shrinkage = held_out_score(train, labels, test)
        table.append(Candidate(components=components, score=score, shrinkage=shrinkage))
    return sorted(table, key=lambda candidate: -candidate.score)
