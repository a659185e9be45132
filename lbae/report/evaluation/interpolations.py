"""Measuring interpolation against the paper's code: exact ends, bits that flip once, even pixel steps."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int8

from lbae.core.latents.interpolation import interpolate
from lbae.core.latents.normals import Normals
from lbae.core.network.codec import Codec
from lbae.core.prior.baselines import paper_path

FRAMES, PAIRS = 12, 128
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Paths:
    """The figures of one interpolation method, averaged over pairs, and the first paths as images."""

    facts: dict[str, float]
    images: np.ndarray


def measure_paths(
    codec: Codec, normals: Normals, latents: Int8[np.ndarray, "K N"], seed: int
) -> dict[str, Paths]:
    """The paths from latent 0 to 1, from 2 to 3, and so on, by our method and the paper's.

    Pairs of equal latents have no path, and are left out if there are others. The paper's method gets the
    same unit vectors. Its frames stand between the true ends, as in its code.
    """
    vectors = normals.factor[1 : 1 + normals.latent_dim]
    pairs = [latents[i : i + 2] for i in range(0, len(latents) - 1, 2)]
    pairs = [pair for pair in pairs if (pair[0] != pair[1]).any()] or pairs
    ours = [interpolate(normals, pair, FRAMES, seed + i) for i, pair in enumerate(pairs)]
    inner = [paper_path(vectors, pair, FRAMES - 2) for pair in pairs]
    theirs = [np.concatenate([pair[:1], path, pair[1:]]) for pair, path in zip(pairs, inner, strict=True)]
    return {
        "ours": _measured(codec, pairs, ours, ours),
        "paper": _measured(codec, pairs, theirs, inner),
    }


def _measured(
    codec: Codec, pairs: list[np.ndarray], shown: list[np.ndarray], computed: list[np.ndarray]
) -> Paths:
    frames = codec.decode(np.concatenate(shown)).reshape(len(pairs), FRAMES, -1) / 255
    steps = _rms(frames[:, 1:] - frames[:, :-1])
    whole = np.maximum(_rms(frames[:, -1] - frames[:, 0]), 1e-9)
    wrong = [int((path[[0, -1]] != pair).sum()) for path, pair in zip(computed, pairs, strict=True)]
    flips = np.array([(path[1:] != path[:-1]).sum(axis=1) for path in shown])
    apart = np.maximum([int((pair[0] != pair[1]).sum()) for pair in pairs], 1)
    facts = {
        "wrong_bits_an_end": np.mean(wrong) / 2,
        "flips_of_hamming": np.mean(flips.sum(axis=1) / apart),
        "largest_step_of_flips": np.mean(flips.max(axis=1) / np.maximum(flips.sum(axis=1), 1)),
        "largest_step_of_mean": np.mean(steps.max(axis=1) / np.maximum(steps.mean(axis=1), 1e-9)),
        "length_of_direct": np.mean(steps.sum(axis=1) / whole),
    }
    images = codec.decode(np.concatenate(shown[:_SHOWN]))
    return Paths(facts={name: round(float(value), 4) for name, value in facts.items()}, images=images)


def _rms(pixels: Float64[np.ndarray, "*K D"]) -> Float64[np.ndarray, "*K"]:
    return np.sqrt(np.square(pixels).mean(axis=-1))
