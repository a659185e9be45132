"""The samplers by name: from moments to the factor that :class:`lbae.core.prior.prior.Prior` draws with.

``hyperplane`` and ``gaussian`` are for use. The others are baselines for comparison
(:mod:`lbae.core.prior.baselines`).
"""

import numpy as np
from jaxtyping import Float32, Float64

from lbae.config import Bottleneck
from lbae.core.latents.packing import pack
from lbae.core.moments.attribute_statistics import joint_moments
from lbae.core.moments.moment_accumulator import sum_packed
from lbae.core.moments.moment_sums import MomentSums, moment_matrix
from lbae.core.prior.baselines import direct_factor, independent_factor, paper_factor
from lbae.core.prior.correlation import correlation_factor
from lbae.core.prior.gaussian import gaussian_correlation, negative_thresholds, with_thresholds
from lbae.core.prior.hyperplane import gram_matrix
from lbae.core.prior.prior import Prior, Sampler

# Of the eigenvalues. Tiny, because at 1e-2 a nearly constant bit flips several times too often.
SAMPLING_FLOOR = 1e-6

Mean = Float64[np.ndarray, "N"]
Second = Float64[np.ndarray, "N N"]
Factor = Float64[np.ndarray, "M M"]


def wanted_correlation(sampler: Sampler, mean: Mean, second: Second, rows: int) -> Factor:
    """The correlation matrix that a hyperplane or gaussian sampler should have; usually it is indefinite."""
    if sampler == "hyperplane":
        return gram_matrix(moment_matrix(mean, second))
    return gaussian_correlation(mean, second, rows)


def repaired_factor(sampler: Sampler, wanted: Float64[np.ndarray, "W W"], mean: Mean, rows: int) -> Factor:
    """The factor of a hyperplane or gaussian sampler, from the matrix of :func:`wanted_correlation`."""
    factor = correlation_factor(wanted, SAMPLING_FLOOR)
    if sampler == "gaussian":
        factor = with_thresholds(negative_thresholds(mean, rows), factor)
    return _keep_constant(factor, mean)


def sampling_factor(sampler: Sampler, mean: Mean, second: Second, rows: int) -> Factor:
    """The factor of a sampler for E[x] and E[x xT] over ``rows`` rows.

    Bits and attributes that are constant in those rows stay constant.
    """
    if sampler == "paper":
        factor = paper_factor(moment_matrix(mean, second))
    elif sampler == "direct":
        factor = direct_factor(mean, second)
    elif sampler == "independent":
        factor = independent_factor(mean, rows)
    else:
        return repaired_factor(sampler, wanted_correlation(sampler, mean, second, rows), mean, rows)
    return _keep_constant(factor, mean)


def _keep_constant(factor: Factor, mean: Mean) -> Factor:
    constant = np.flatnonzero(np.abs(mean) == 1) + 1
    factor[constant] = 0.0
    factor[constant, 0] = mean[constant - 1]
    return factor


def fit_sampler(sampler: Sampler, moments: MomentSums) -> Prior:
    """Fit a prior of one component to these moments; ValueError for fewer than 2 rows.

    ``paper`` ignores attributes, as the paper's code does, because their rows would make its repair weaken
    the bits' correlations.
    """
    if moments.count < 2:
        raise ValueError(f"moments of {moments.count} rows; a prior needs at least 2")
    attributes = () if sampler == "paper" else moments.attributes
    wanted = joint_moments(moments) if attributes else (moments.mean, moments.second)
    factor = sampling_factor(sampler, *wanted, moments.count)
    return Prior(
        sampler=sampler, weights=np.ones(1), factors=factor[None].astype(np.float32), attributes=attributes
    )


def draw_codes(
    bottleneck: Bottleneck, codes: Float32[np.ndarray, "K n"], count: int, seed: int
) -> Float32[np.ndarray, "{count} n"]:
    """Draw new codes for a decoder from one Gaussian.

    For bits it is the ``gaussian`` sampler, fitted to ``codes``. For real numbers it has the mean and
    covariance of ``codes``. For a variational autoencoder it is N(0, I), toward which training pulls its
    codes.
    """
    if bottleneck == "bernoulli":
        return (
            fit_sampler("gaussian", sum_packed(pack(codes.astype(np.int8)), codes.shape[1]))
            .sample(count, seed)
            .astype(np.float32)
        )
    rng, size = np.random.default_rng(seed), codes.shape[1]
    normal, covariance = bottleneck == "gaussian", np.atleast_2d(np.cov(codes.T))
    mean, spread = (np.zeros(size), np.eye(size)) if normal else (codes.mean(axis=0), covariance)
    return rng.multivariate_normal(mean, spread, count).astype(np.float32)


def fair_coins(latent_dim: int) -> Prior:
    """A prior of independent, fair bits."""
    factor = independent_factor(np.zeros(latent_dim), rows=2)
    return Prior(sampler="independent", weights=np.ones(1), factors=factor[None].astype(np.float32))
