"""How well the bits of a latent are used."""

import numpy as np
from jaxtyping import Float64, Int8

from lbae.core.latents.packing import pack
from lbae.core.moments.moment_accumulator import sum_packed
from lbae.core.moments.moment_sums import MomentSums

_PAIRED = 512  # bits: 262,144 pairs, and a spectrum that takes less than a second


def bit_health(sums: MomentSums) -> dict[str, float]:
    """Numbers about the bits of the rows summed.

    ``mean_abs`` is the mean of abs(E[b]); ``dead`` counts bits that never vary; ``entropy`` is a bit's mean
    entropy in bits; ``redundancy`` the mean square of the correlations between pairs of bits that vary;
    ``effective_rank`` the exponential of the entropy of their correlation matrix's spectrum (Roy and
    Vetterli, EUSIPCO 2007): how many directions there are.
    """
    return {**_alone(sums.mean), **_together(sums.mean, sums.second)}


def sampled_bit_health(latents: Int8[np.ndarray, "K N"]) -> dict[str, float]:
    """The numbers of :func:`bit_health` for latents of +1 and -1, quickly for any N.

    ``redundancy`` and ``effective_rank`` are those of at most 512 bits, spaced evenly; the other numbers are
    those of all bits.
    """
    some = np.linspace(0, latents.shape[1] - 1, min(latents.shape[1], _PAIRED)).astype(np.int64)
    sums = sum_packed(pack(latents[:, some]), len(some))
    return {**_alone(latents.mean(axis=0, dtype=np.float64)), **_together(sums.mean, sums.second)}


def _alone(mean: Float64[np.ndarray, "N"]) -> dict[str, float]:
    share = np.clip((mean + 1) / 2, 1e-12, 1 - 1e-12)
    entropy = -(share * np.log2(share) + (1 - share) * np.log2(1 - share))
    dead = float((np.abs(mean) == 1).sum())
    return {"mean_abs": float(np.abs(mean).mean()), "dead": dead, "entropy": float(entropy.mean())}


def _together(mean: Float64[np.ndarray, "N"], second: Float64[np.ndarray, "N N"]) -> dict[str, float]:
    alive = np.abs(mean) < 1
    count = int(alive.sum())
    redundancy = rank = 0.0
    if count:
        inner = mean[alive]
        deviation = np.sqrt(1 - inner**2)
        correlation = (second[np.ix_(alive, alive)] - np.outer(inner, inner)) / np.outer(deviation, deviation)
        spectrum = np.clip(np.linalg.eigvalsh(correlation), 1e-12, None) / count
        redundancy = float((np.square(correlation).sum() - count) / max(1, count * (count - 1)))
        rank = float(np.exp(-(spectrum * np.log(spectrum)).sum()))
    return {"redundancy": redundancy, "effective_rank": rank}
