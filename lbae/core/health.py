"""How well the bits of a latent are used."""

import numpy as np

from lbae.core.moments import MomentSums


def bit_health(sums: MomentSums) -> dict[str, float]:
    """Numbers about the bits of the rows summed.

    ``mean_abs`` is the mean of abs(E[b]); ``dead`` counts bits that never vary; ``entropy`` is a bit's mean entropy in bits;
    ``redundancy`` the mean square of the correlations between pairs of bits that vary; ``effective_rank`` the exponential of
    the entropy of their correlation matrix's spectrum (Roy and Vetterli, EUSIPCO 2007): how many directions there are.
    """
    mean = sums.mean
    share = np.clip((mean + 1) / 2, 1e-12, 1 - 1e-12)
    entropy = -(share * np.log2(share) + (1 - share) * np.log2(1 - share))
    alive = np.abs(mean) < 1
    count = int(alive.sum())
    redundancy = rank = 0.0
    if count:
        inner = mean[alive]
        deviation = np.sqrt(1 - inner**2)
        correlation = (sums.second[np.ix_(alive, alive)] - np.outer(inner, inner)) / np.outer(deviation, deviation)
        spectrum = np.clip(np.linalg.eigvalsh(correlation), 1e-12, None) / count
        redundancy = float((np.square(correlation).sum() - count) / max(1, count * (count - 1)))
        rank = float(np.exp(-(spectrum * np.log(spectrum)).sum()))
    return {
        "mean_abs": float(np.abs(mean).mean()),
        "dead": float(len(mean) - count),
        "entropy": float(entropy.mean()),
        "redundancy": redundancy,
        "effective_rank": rank,
    }
