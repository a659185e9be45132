"""Whether a prior memorizes its training latents, by distances of new latents to the nearest of them."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Int8, Int64

QUERIES = 2_000  # enough for a first percentile
_CHUNK = 2**14


def nearest_distances(
    latents: Int8[np.ndarray, "K N"], among: Int8[np.ndarray, "T N"]
) -> Int64[np.ndarray, "K"]:
    """Hamming distance of every latent to the nearest of ``among``.

    Exact, because float32 represents sums of +1 and -1 exactly.
    """
    queries = torch.from_numpy(latents).float().T
    agreement = torch.full((len(latents),), -float(latents.shape[1]))
    for start in range(0, len(among), _CHUNK):
        chunk = torch.from_numpy(among[start : start + _CHUNK]).float()
        agreement = torch.maximum(agreement, (chunk @ queries).amax(dim=0))
    distances: np.ndarray = ((latents.shape[1] - agreement) / 2).numpy().astype(np.int64)
    return distances


def nearest_facts(latents: Int8[np.ndarray, "K N"], among: Int8[np.ndarray, "T N"]) -> dict[str, Any]:
    """:func:`distance_facts` of the first ``QUERIES`` latents."""
    return distance_facts(nearest_distances(latents[:QUERIES], among))


def distance_facts(found: Int64[np.ndarray, "K"]) -> dict[str, Any]:
    """Percentiles 1 and 50 of nearest distances in bits, and numbers of copies (distance 0) and queries."""
    percentiles = np.percentile(found, [1, 50]).tolist()
    return {"percentiles_1_50": percentiles, "copies": int((found == 0).sum()), "queries": len(found)}


def memorizes(drawn: dict[str, Any], unseen: dict[str, Any]) -> bool:
    """Whether drawn latents lie nearer to the training latents than unseen ones do.

    Both arguments are :func:`nearest_facts`. Drawn latents lie nearer if either percentile is smaller or
    their share of copies is larger. Shares are compared because the numbers of queries may differ.
    """
    nearer = np.less(drawn["percentiles_1_50"], unseen["percentiles_1_50"]).any()
    return bool(nearer) or drawn["copies"] * unseen["queries"] > unseen["copies"] * drawn["queries"]
