"""The moments of a prior's samples, by formula, and their errors against target moments.

    hyperplane   E[b_i] = 2/pi asin<V_i, V_0>
                 E[b_i b_j] = 2/pi asin<V_i, V_j>    (Goemans and Williamson 1995)
    thresholds   E[b_i] = 2 Phi(-t_i) - 1
                 E[b_i b_j] = 4 P(b_i = b_j = +1) - 2 P(b_i = +1) - 2 P(b_j = +1) + 1

-t_i is F_i0 over the norm of the rest of row i. P(b_i = b_j = +1) is the upper quadrant of a bivariate
Gaussian.
"""

import numpy as np
from jaxtyping import Float64
from scipy import special

from lbae.core.prior.gaussian import upper_quadrant
from lbae.core.prior.prior import HYPERPLANES, Prior, Sampler

Mean = Float64[np.ndarray, "D"]
Second = Float64[np.ndarray, "D D"]
_NEVER = 40.0  # a threshold so far out that Phi is 0 or 1


def factor_moments(sampler: Sampler, factor: Float64[np.ndarray, "M M"]) -> tuple[Mean, Second]:
    """E[x] and E[x xT] of a factor's draws x, attributes before bits; D = M - 1."""
    if sampler in HYPERPLANES:
        unit = factor / np.linalg.norm(factor, axis=1, keepdims=True)
        matrix = 2 / np.pi * np.arcsin(np.clip(unit @ unit.T, -1, 1))
        np.fill_diagonal(matrix, 1.0)
        return matrix[1:, 0].copy(), matrix[1:, 1:].copy()
    scale = np.linalg.norm(factor[1:, 1:], axis=1)
    varies = scale > 0
    unit = factor[1:, 1:] / np.where(varies, scale, 1)[:, None]
    negative_threshold = np.where(
        varies, factor[1:, 0] / np.where(varies, scale, 1), np.sign(factor[1:, 0]) * _NEVER
    )
    share = special.ndtr(negative_threshold)
    i, j = np.triu_indices(len(share), 1)
    both = upper_quadrant(-negative_threshold[i], -negative_threshold[j], np.clip(unit @ unit.T, -1, 1)[i, j])
    second = np.eye(len(share))
    second[i, j] = second[j, i] = 4 * both - 2 * share[i] - 2 * share[j] + 1
    return 2 * share - 1, second


def expected_moments(prior: Prior) -> tuple[Mean, Second]:
    """E[y] and E[y yT] of a prior's latents."""
    bits = slice(len(prior.attributes), None)
    mean, second = np.zeros(prior.latent_dim), np.zeros((prior.latent_dim, prior.latent_dim))
    for weight, factor in zip(prior.weights, prior.factors, strict=True):
        of_component = factor_moments(prior.sampler, factor.astype(np.float64))
        mean += weight * of_component[0][bits]
        second += weight * of_component[1][bits, bits]
    return mean, second


def covariance(mean: Mean, second: Second) -> Second:
    """E[y yT] - E[y] E[y]T."""
    return second - np.outer(mean, mean)


def moment_errors(mean: Mean, second: Second, target_mean: Mean, target_second: Second) -> dict[str, float]:
    """Root mean square and largest error of the means and of the pairwise moments."""
    pairs = np.triu_indices(len(mean), 1)
    errors = {"means": mean - target_mean, "pairs": (second - target_second)[pairs]}
    facts = {}
    for name, error in errors.items():
        facts[f"{name}_rms"] = round(float(np.sqrt(np.mean(error**2))) if len(error) else 0.0, 5)
        facts[f"{name}_max"] = round(float(np.abs(error).max(initial=0)), 5)
    return facts
