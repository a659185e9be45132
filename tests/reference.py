"""Slow, obvious versions of the mathematics, written from the definitions: oracles for the tests."""

import numpy as np
from scipy import stats


def pack(latents: np.ndarray) -> np.ndarray:
    """Pack bits one at a time, least significant bit first."""
    rows, n = latents.shape
    packed = np.zeros((rows, (n + 7) // 8), dtype=np.uint8)
    for row in range(rows):
        for bit in range(n):
            if latents[row, bit] == 1:
                packed[row, bit // 8] |= 1 << (bit % 8)
    return packed


def moment_sums(latents: np.ndarray, present: np.ndarray, absent: np.ndarray) -> np.ndarray:
    """Sum of s sT in Python integers."""
    side = latents.shape[1] + 2 * present.shape[1] + 1
    total = np.zeros((side, side), dtype=object)
    for y, p, q in zip(latents, present, absent, strict=True):
        s = [int(v) for v in (*y, *p, *q, 1)]
        total += np.array([[a * b for b in s] for a in s], dtype=object)
    return total.astype(np.int64)


def nearest_correlation(
    matrix: np.ndarray, floor: float = 0.0, steps: int = 20_000, tolerance: float = 1e-10
) -> np.ndarray:
    """Higham's alternating projections with Dykstra's correction."""
    y, correction = matrix.copy(), np.zeros_like(matrix)
    for _ in range(steps):
        before = y
        r = y - correction
        values, vectors = np.linalg.eigh(r)
        x = (vectors * np.maximum(values, floor)) @ vectors.T
        correction = x - r
        y = x.copy()
        np.fill_diagonal(y, 1.0)
        if np.linalg.norm(y - before) <= tolerance * np.linalg.norm(y):
            break
    return y


def split(factor: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """The latent of one hyperplane, bit by bit."""
    boundary = 1 if sum(factor[0] * normal) >= 0 else -1
    sides = [1 if sum(row * normal) >= 0 else -1 for row in factor[1:]]
    return np.array([1 if side == boundary else -1 for side in sides], dtype=np.int8)


def paper_normal(vectors: np.ndarray, latent: np.ndarray) -> np.ndarray:
    """``split_sphere`` of the paper's code (github.com/ok1zjf/LBAE, sampler.py), line by line."""
    lone, lzero = vectors[latent == 1], vectors[latent == -1]
    p = lone.mean(0) / np.linalg.norm(lone.mean(0))
    n = lzero.mean(0) / np.linalg.norm(lzero.mean(0))
    bp, bp_n = None, 10000
    while True:
        dp = lone @ p
        inv = (dp < 0).sum()
        if bp_n > inv:
            bp_n, bp = inv, p
        else:
            break
        if inv == 0:
            break
        lone = np.concatenate([lone, lone[dp < 0]])
        p = lone.mean(0) / np.linalg.norm(lone.mean(0))
    bn, bn_n = None, 10000
    for _ in range(10):
        dn = lzero @ n
        inv = (dn < 0).sum()
        if inv <= bn_n:
            bn_n, bn = inv, n
        else:
            break
        if inv == 0:
            break
        lzero = np.concatenate([lzero, lzero[dn < 0]])
        n = lzero.mean(0) / np.linalg.norm(lzero.mean(0))
    return (bp - bn) / np.linalg.norm(bp - bn)


def edit_bits(latent: np.ndarray, direction: np.ndarray, target: float) -> np.ndarray:
    """Flip the bit with the largest |direction| that raises the score, until the score reaches the target."""
    latent = latent.copy()
    while float(latent @ direction) < target - 1e-9:
        gains = [abs(d) if b * d < 0 else 0.0 for b, d in zip(latent, direction, strict=True)]
        if max(gains) == 0:
            break
        latent[int(np.argmax(gains))] *= -1
    return latent


def orthant_probability(correlation: float) -> float:
    """P(x > 0 and y > 0) of a bivariate normal."""
    covariance = [[1.0, correlation], [correlation, 1.0]]
    return float(stats.multivariate_normal(mean=[0.0, 0.0], cov=covariance).cdf([0.0, 0.0]))
