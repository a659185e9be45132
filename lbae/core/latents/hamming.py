"""Nearest latents by Hamming distance over packed bits."""

import faiss
import numpy as np
from jaxtyping import Int, UInt8


def nearest(
    queries: UInt8[np.ndarray, "Q B"], packed: UInt8[np.ndarray, "K B"], count: int
) -> tuple[Int[np.ndarray, "Q C"], Int[np.ndarray, "Q C"]]:
    """Distances in bits, and row numbers, of the ``count`` nearest latents, nearest first.

    C is min(count, K).
    """
    distances, rows = faiss.knn_hamming(queries, packed, min(count, len(packed)))
    return distances, rows
