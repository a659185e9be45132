"""The dichotomised Gaussian (Macke et al. 2009): thresholded Gaussians with exactly the latents' means.

Bit i is +1 where x_i > t_i with t_i = -Phi^-1(P(b_i = +1)). The correlation rho of x_i and x_j is the
tetrachoric one, at which both bits are +1 as often as in the latents. With thresholds h and k:

    P(x > h, y > k) = Phi(-h) Phi(-k)
        + 1/(2 pi) integral_0^asin(rho) exp(-(h^2 + k^2 - 2 h k sin u) / (2 cos^2 u)) du
"""

import numpy as np
import torch
from jaxtyping import Float, Float64
from scipy import special
from torch import Tensor

_NODES, _WEIGHTS = (values.tolist() for values in np.polynomial.legendre.leggauss(16))
_STEPS = 40
_TOLERANCE = 1e-8
_LIMIT = np.pi / 2 - 1e-4
_CHUNK = 2**16


def tetrachoric(
    first: Float64[np.ndarray, "P"], second: Float64[np.ndarray, "P"], both: Float64[np.ndarray, "P"]
) -> Float64[np.ndarray, "P"]:
    """Tetrachoric correlations: of bivariate Gaussians that set both bits of pair p with chance ``both[p]``.

    ``first`` and ``second`` are the probabilities that each bit is +1, which fix the thresholds. The method
    is bracketed Newton on the angle asin(rho), for all pairs of a chunk at once; a chunk fits a CPU's cache.
    """
    chunks = (slice(start, start + _CHUNK) for start in range(0, len(both), _CHUNK))
    solved = [
        _solve(*(torch.from_numpy(values[chunk]) for values in (first, second, both))) for chunk in chunks
    ]
    return torch.cat(solved).sin().numpy() if solved else np.empty(0)


def upper_quadrant(
    h: Float64[np.ndarray, "P"], k: Float64[np.ndarray, "P"], correlation: Float64[np.ndarray, "P"]
) -> Float64[np.ndarray, "P"]:
    """P(x > h, y > k) of bivariate Gaussians with these correlations, pair by pair."""
    parts = []
    for start in range(0, len(h), _CHUNK):
        x, y, rho = (torch.from_numpy(values[start : start + _CHUNK]) for values in (h, k, correlation))
        angle = rho.asin().clamp(-_LIMIT, _LIMIT)
        excess = _integral(angle, (x * x + y * y) / 2, x * y) / (2 * np.pi)
        parts.append(torch.special.ndtr(-x) * torch.special.ndtr(-y) + excess)
    return torch.cat(parts).numpy() if parts else np.empty(0)


def _density(angle: Tensor, squares: Tensor, product: Tensor) -> Tensor:
    return torch.exp((product * angle.sin() - squares) / angle.cos() ** 2)


def _integral(angle: Tensor, squares: Tensor, product: Tensor) -> Tensor:
    """The integral from 0 to ``angle``, by Gauss-Legendre quadrature."""
    half = angle / 2
    total = torch.zeros_like(angle)
    for node, weight in zip(_NODES, _WEIGHTS, strict=True):
        total += weight * half * _density(half * (1 + node), squares, product)
    return total


def _solve(first: Tensor, second: Tensor, both: Tensor) -> Tensor:
    h, k = -torch.special.ndtri(first), -torch.special.ndtri(second)
    squares, product = (h * h + k * k) / 2, h * k
    excess = 2 * np.pi * (both - first * second)
    solution = torch.zeros_like(h)
    # The pairs not yet solved. Most take four steps, those near an empty cell twenty.
    open_ = torch.arange(len(h))
    low, high, angle = torch.full_like(h, -_LIMIT), torch.full_like(h, _LIMIT), solution.clone()

    for _ in range(_STEPS):
        error = _integral(angle, squares, product) - excess
        high, low = torch.where(error > 0, angle, high), torch.where(error > 0, low, angle)
        step = angle - error / _density(angle, squares, product)
        following = torch.where((step > low) & (step < high), step, (low + high) / 2)
        solution[open_] = following
        rest = (following - angle).abs() > _TOLERANCE
        if not rest.any():
            break
        open_, low, high, angle = open_[rest], low[rest], high[rest], following[rest]
        squares, product, excess = squares[rest], product[rest], excess[rest]
    return solution


def gaussian_correlation(
    mean: Float64[np.ndarray, "N"], second: Float64[np.ndarray, "N N"], rows: int
) -> Float64[np.ndarray, "N N"]:
    """Tetrachoric correlations of bits with these moments; the matrix may be indefinite.

    An empty cell in the 2 x 2 table of a pair counts as half a row. Constant bits have no correlations.
    """
    share = (mean + 1) / 2
    i, j = np.triu_indices(len(mean), 1)
    both = (second[i, j] + mean[i] + mean[j] + 1) / 4
    half = 0.5 / rows
    least, most = np.maximum(0, share[i] + share[j] - 1) + half, np.minimum(share[i], share[j]) - half
    varies = least < most
    correlation = np.eye(len(mean))
    found = tetrachoric(share[i][varies], share[j][varies], np.clip(both, least, most)[varies])
    correlation[i[varies], j[varies]] = correlation[j[varies], i[varies]] = found
    return correlation


def negative_thresholds(mean: Float64[np.ndarray, "N"], rows: int) -> Float64[np.ndarray, "N"]:
    """Return -t for bits with these means.

    A bit that is constant over ``rows`` rows counts as if it had the other value in half a row.
    """
    half = 0.5 / rows
    return special.ndtri(np.clip((mean + 1) / 2, half, 1 - half))


def bit_means(shifts: Float[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """E[b] of bits with the thresholds -shifts; inverse of :func:`negative_thresholds`."""
    means: Float64[np.ndarray, "*shape"] = 2 * special.ndtr(shifts.astype(np.float64)) - 1
    return means


def bit_mean_slopes(shifts: Float[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """The derivatives of :func:`bit_means`."""
    slopes: Float64[np.ndarray, "*shape"] = np.sqrt(2 / np.pi) * np.exp(-(shifts.astype(np.float64) ** 2) / 2)
    return slopes


def with_thresholds(
    column: Float64[np.ndarray, "N"], lower: Float64[np.ndarray, "N N"]
) -> Float64[np.ndarray, "M M"]:
    """[[1, 0], [column, lower]]: a factor whose bits are thresholded Gaussians."""
    factor = np.zeros((len(column) + 1, len(column) + 1))
    factor[0, 0] = 1.0
    factor[1:, 0], factor[1:, 1:] = column, lower
    return factor
