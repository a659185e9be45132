import numpy as np
import pytest

from lbae.core.latents.packing import pack
from lbae.core.moments.moment_accumulator import sum_packed
from lbae.core.prior.mixture import (
    cluster_centers,
    nearest_center,
    shrink,
    try_clusters,
    try_partition,
    within_covariance,
)


def clouds(count: int, clusters: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    centers = rng.choice([-1.0, 1.0], size=(clusters, 32))
    label = rng.integers(clusters, size=count)
    flip = rng.random((count, 32)) < 0.1
    return np.where(flip, -centers[label], centers[label]).astype(np.int8), label


def test_separate_clouds_are_found():
    latents, label = clouds(2000, 3)
    points = latents.astype(np.float32)
    found = nearest_center(points, cluster_centers(points, 3, seed=0))
    assert len({(a, b) for a, b in zip(label, found, strict=True)}) == 3


def test_nearest_center_is_the_nearest():
    points, centers = (
        np.random.default_rng(seed).normal(size=(rows, 32)).astype(np.float32)
        for seed, rows in ((0, 200), (1, 7))
    )
    distance = ((points[:, None, :] - centers[None]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(nearest_center(points, centers), distance.argmin(axis=1))


def test_held_out_score_prefers_clusters_where_there_are_some():
    latents, label = clouds(4000, 8)
    held = np.arange(4000) % 10 == 0
    true = try_partition(latents[~held], label[~held], latents[held])
    points = np.random.default_rng(0).normal(size=(3600, 5)).astype(np.float32)
    assert true.nats > try_clusters(latents[~held], points, latents[held], 1, 0).nats + 3
    noise = np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.int8), size=(4000, 32))
    one, many = (try_clusters(noise[~held], points, noise[held], number, 0) for number in (1, 60))
    assert one.nats > many.nats
    assert many.facts() == {
        "components": 60,
        "held_out_nats": round(many.nats, 3),
        "shrinkage": many.shrinkage,
    }


def test_held_out_score_of_one_component_is_a_gaussian_density():
    latents, _ = clouds(500, 2)
    train, test = latents[:400], latents[400:]
    score = try_partition(train, np.zeros(400, dtype=np.int64), test)
    mean, covariance = train.mean(axis=0), np.cov(train.T.astype(float), bias=True) + 0.01 * np.eye(32)
    white = np.linalg.solve(np.linalg.cholesky(covariance), (test - mean).T)
    expected = -0.5 * (white**2).sum(axis=0).mean() - 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]
    assert abs(score.nats - expected) < 1e-8
    assert score.shrinkage == 0


def test_without_held_out_latents_there_is_no_score_and_full_shrinkage():
    latents, label = clouds(100, 2)
    scored = try_partition(latents, label, latents[:0])
    assert scored.facts() == {"components": 2, "held_out_nats": None, "shrinkage": 0.5}


def test_the_pooled_covariance_is_that_about_the_means_of_the_clusters():
    latents, label = clouds(300, 3)
    expected = sum(
        np.cov(latents[label == c].T.astype(float), bias=True) * (label == c).mean() for c in range(3)
    )
    np.testing.assert_allclose(within_covariance(latents, label), expected, atol=1e-12)


@pytest.mark.parametrize("amount", [0.0, 0.3, 1.0])
def test_shrinking_keeps_means_and_moves_correlations(amount):
    latents, label = clouds(600, 3)
    within = within_covariance(latents, label)
    sums = sum_packed(pack(latents[label == 1]), 32)
    second = shrink(sums.mean, sums.second, within, amount)
    np.testing.assert_array_equal(np.diag(second), 1)

    def correlations(covariance):
        deviation = np.sqrt(np.diag(covariance))
        return covariance / np.outer(deviation, deviation)

    own, moved = (correlations(m - np.outer(sums.mean, sums.mean)) for m in (sums.second, second))
    np.testing.assert_allclose(moved, (1 - amount) * own + amount * correlations(within), atol=1e-12)


def test_more_components_than_latents_are_refused():
    with pytest.raises(ValueError, match="6 components were asked for; allowed: 1 to 5, the number"):
        cluster_centers(np.zeros((5, 2), dtype=np.float32), 6, seed=0)
