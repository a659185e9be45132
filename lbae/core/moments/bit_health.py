"""How well the bits of a latent are used."""

import numpy as np
from jaxtyping import Float64, Int8

from lbae.core.latents.packing import pack
from lbae.core.moments.moment_accumulator import sum_packed
from lbae.core.moments.moment_sums import MomentSums

_PAIRED = 512  # bits compared in pairs; the spectrum of so many takes less than a second


def bit_health(sums: MomentSums) -> dict[str, float]:
    """Measures of how well the bits are used, over the rows summed.

    ``mean_abs`` is the mean of abs(E[b]). ``dead`` counts bits that never vary. ``entropy`` is the mean
    entropy per bit, in bits. Two measures are of the correlation matrix of the bits that vary:
    ``redundancy``, the mean square of its entries off the diagonal, and ``effective_rank``, the exponential
    of its spectrum's entropy, an effective number of dimensions (Roy and Vetterli, EUSIPCO 2007).
    """
    return {**_alone(sums.mean), **_together(sums.mean, sums.second)}


def sampled_bit_health(latents: Int8[np.ndarray, "K N"]) -> dict[str, float]:
    """The measures of :func:`bit_health` for latents of +1 and -1, fast at any N.

    ``redundancy`` and ``effective_rank`` cover at most 512 evenly spaced bits, the other measures all bits.
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
