"""Direct binarisation (slide 16), the baseline: b = sign(L z + E[y]) with L LT the covariance of the latents."""

import numpy as np
from jaxtyping import Int8
from scipy import linalg

from lbae.core.moments import MomentSums


def sample_direct(moments: MomentSums, count: int, rng: np.random.Generator) -> Int8[np.ndarray, "{count} N"]:
    """Draw latents by thresholding a Gaussian that has the latents' own mean and covariance."""
    mean = moments.mean
    values, vectors = linalg.eigh(moments.second - np.outer(mean, mean))
    root = vectors * np.sqrt(np.maximum(values, 0))
    gaussian = rng.standard_normal((count, len(mean))) @ root.T + mean
    return np.where(gaussian >= 0, np.int8(1), np.int8(-1))
