"""Does a prior remember its training latents? Distances of new latents to the nearest of them say so."""

import numpy as np
import torch
from jaxtyping import Int8, Int64

_CHUNK = 2**14


def nearest_distances(latents: Int8[np.ndarray, "K N"], among: Int8[np.ndarray, "T N"]) -> Int64[np.ndarray, "K"]:
    """Hamming distance of every latent to the nearest of ``among``; exact, since sums of +1 and -1 fit float32."""
    queries = torch.from_numpy(latents).float().T
    agreement = torch.full((len(latents),), -float(latents.shape[1]))
    for start in range(0, len(among), _CHUNK):
        chunk = torch.from_numpy(among[start : start + _CHUNK]).float()
        agreement = torch.maximum(agreement, (chunk @ queries).amax(dim=0))
    distances: np.ndarray = ((latents.shape[1] - agreement) / 2).numpy().astype(np.int64)
    return distances
