import numpy as np
import pytest

from lbae.core.mixture import choose_components, cluster_centers, held_out_score, nearest_center


def clouds(count: int, clusters: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    centers = rng.choice([-1.0, 1.0], size=(clusters, 32))
    label = rng.integers(clusters, size=count)
    flip = rng.random((count, 32)) < 0.1
    return np.where(flip, -centers[label], centers[label]).astype(np.int8), label


def test_separate_clouds_are_found():
    latents, label = clouds(2000, 3)
    found = nearest_center(latents, cluster_centers(latents, 3, seed=0))
    assert len({(a, b) for a, b in zip(label, found, strict=True)}) == 3


def test_nearest_center_is_the_nearest():
    latents, _ = clouds(200, 4)
    centers = np.random.default_rng(1).normal(size=(7, 32)).astype(np.float32)
    distance = ((latents[:, None, :] - centers[None]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(nearest_center(latents, centers), distance.argmin(axis=1))


def test_held_out_score_prefers_the_true_number_of_clouds():
    latents, _ = clouds(4000, 8)
    held = np.arange(4000) % 10 == 0
    scores = choose_components(latents, held, [1, 8, 40], seed=0)
    assert scores[0].components != 1
    assert {s.components for s in scores} == {1, 8, 40}
    assert scores[0].score > scores[-1].score


def test_held_out_score_of_one_component_is_a_gaussian_density():
    latents, _ = clouds(500, 2)
    train, test = latents[:400], latents[400:]
    score, _ = held_out_score(train, np.zeros(400, dtype=np.int64), test)
    mean, covariance = train.mean(axis=0), np.cov(train.T.astype(float), bias=True) + 0.01 * np.eye(32)
    white = np.linalg.solve(np.linalg.cholesky(covariance), (test - mean).T)
    expected = -0.5 * (white**2).sum(axis=0).mean() - 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]
    assert abs(score - expected) < 1e-8


def test_more_components_than_latents_are_refused():
    latents, _ = clouds(5, 1)
    with pytest.raises(ValueError, match="6 components were asked for; allowed: 1 to the 5"):
        cluster_centers(latents, 6, seed=0)
