"""Whether a prior memorizes its training latents, by the distances of new latents to the nearest of them."""

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

    Exact, because sums of +1 and -1 fit float32.
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
    """Percentiles 1 and 50 of distances to the nearest, in bits, and how many are copies (0), of how many."""
    percentiles = np.percentile(found, [1, 50]).tolist()
    return {"percentiles_1_50": percentiles, "copies": int((found == 0).sum()), "queries": len(found)}


def memorizes(drawn: dict[str, Any], unseen: dict[str, Any]) -> bool:
    """Whether drawn latents lie nearer to the training latents than unseen ones do.

    Compares the :func:`nearest_facts` of both. A larger share of copies counts as nearer; there may be more
    drawn than unseen latents.
    """
    nearer = np.less(drawn["percentiles_1_50"], unseen["percentiles_1_50"]).any()
    return bool(nearer) or drawn["copies"] * unseen["queries"] > unseen["copies"] * drawn["queries"]
