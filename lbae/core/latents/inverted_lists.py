"""Inverted lists: every latent belongs to its nearest of some centres, and a search looks into few lists.

The method is IVF (Sivic and Zisserman 2003; Jégou, Douze and Schmid 2011), with Hamming distances. A centre
is the sign of the mean of its latents, from FAISS's k-means.
"""

import math

import faiss
import numpy as np
from jaxtyping import Int64, UInt8

from lbae.core.latents.hamming import nearest

MOST_LISTS = 2**14
SAMPLE_PER_LIST = 40
"""Latents that centres are learned from, per list; FAISS asks for 39 or more."""
_DEFAULT_LISTS, _DEFAULT_BYTES = 2**12, 2**30


def default_lists(rows: int, bits: int) -> int:
    """The number of lists for this many latents: about the square root, a power of two.

    At most 4,096, and so few that FAISS's sample of real numbers takes at most a gibibyte.
    """
    most = min(_DEFAULT_LISTS, _DEFAULT_BYTES // (4 * SAMPLE_PER_LIST * bits))
    return int(2 ** min(round(math.log2(max(1, rows)) / 2), math.floor(math.log2(most))))


def learn_centres(sample: UInt8[np.ndarray, "K B"], lists: int) -> UInt8[np.ndarray, "L B"]:
    """The centres of ``lists`` inverted lists, packed; ValueError if the sample has fewer latents."""
    if len(sample) < lists:
        raise ValueError(f"{lists} lists need as many latents; there are {len(sample)}")
    bits = 8 * sample.shape[1]
    flat = faiss.IndexBinaryFlat(bits)
    index = faiss.IndexBinaryIVF(flat, bits, lists)
    index.cp.min_points_per_centroid = 1  # silent about small samples, which small tables have
    index.train(sample)
    centres: UInt8[np.ndarray, "L B"] = flat.reconstruct_n(0, lists)
    return centres


def nearest_lists(
    centres: UInt8[np.ndarray, "L B"], packed: UInt8[np.ndarray, "K B"], count: int
) -> Int64[np.ndarray, "K count"]:
    """The ``count`` lists whose centres are nearest to each latent, nearest first."""
    return nearest(packed, centres, count)[1].astype(np.int64)
