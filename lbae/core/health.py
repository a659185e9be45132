"""How well the bits of a latent are used."""

import numpy as np
from jaxtyping import Float


def bit_health(latents: Float[np.ndarray, "K N"]) -> dict[str, float]:
    """Numbers about latents of +1 and -1, of a few thousand rows.

    ``mean_abs`` is the mean of abs(E[b]); ``dead`` counts bits that never vary; ``entropy`` is a bit's mean entropy in bits;
    ``redundancy`` the mean square of the correlations between pairs of bits that vary.
    """
    mean = latents.mean(axis=0, dtype=np.float64)
    share = np.clip((mean + 1) / 2, 1e-12, 1 - 1e-12)
    entropy = -(share * np.log2(share) + (1 - share) * np.log2(1 - share))
    alive = np.abs(mean) < 1
    count = int(alive.sum())
    redundancy = 0.0
    if count > 1:
        standard = (latents[:, alive] - mean[alive]) / np.sqrt(1 - mean[alive] ** 2)
        correlation = standard.T @ standard / len(latents)
        redundancy = float((np.square(correlation).sum() - count) / (count * (count - 1)))
    return {
        "mean_abs": float(np.abs(mean).mean()),
        "dead": float(len(mean) - count),
        "entropy": float(entropy.mean()),
        "redundancy": redundancy,
    }
