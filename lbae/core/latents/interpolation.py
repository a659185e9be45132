"""Interpolation on the sphere between typical normals of latents, so that bits flip one by one (slide 5).

Slerp between normals a and b passes sin((1 - s) w) a + sin(s w) b up to length. The side of bit i on it, with
margins A_i = |<V_i, a>| and B_i = |<V_i, b>| and other signs at the ends, is zero where sin(s w) / sin((1 -
s) w) = A_i / B_i. That grows with s, so the bits flip in the order of A_i / B_i. Normals of equal margins
would flip all of them at one point.
"""

import itertools

import numpy as np
from jaxtyping import Float64, Int8

from lbae.core.latents.normals import Normals


def interpolate(
    normals: Normals, waypoints: Int8[np.ndarray, "P N"], steps: int, seed: int = 0
) -> Int8[np.ndarray, "F N"]:
    """Return a path of latents through all waypoints, each exact.

    Each leg has ``steps`` frames, both its ends included: F = (P - 1)(steps - 1) + 1.

    The frames are the latents of slerp between typical normals, at places between which equally many bits
    flip (give or take one): at equal angles a single step can hold a third of all flips.
    """
    if steps < 2 or len(waypoints) < 2:
        raise ValueError(f"{len(waypoints)} waypoints and steps = {steps}; a path needs at least 2 of each")
    # One generator for all waypoints: with the same margins, every differing bit would flip in the middle of
    # a leg.
    rng = np.random.default_rng(seed)
    margins = [np.abs(normals.sides(normals.typical(latent, rng))) for latent in waypoints]
    path = [waypoints[:1]]
    for leg in itertools.pairwise(zip(waypoints, margins, strict=True)):
        (source, leaving), (target, arriving) = leg
        path.append(_leg(source, target, leaving / arriving, steps))
    return np.concatenate(path)


def _leg(
    source: Int8[np.ndarray, "N"], target: Int8[np.ndarray, "N"], order: Float64[np.ndarray, "N"], steps: int
) -> Int8[np.ndarray, "F N"]:
    """Frames after ``source``: each takes the target's bits where that is due by ``order``."""
    differing = np.flatnonzero(source != target)
    rank = np.full(len(source), len(source))
    rank[differing[np.argsort(order[differing], kind="stable")]] = np.arange(len(differing))
    due = np.round(np.linspace(0, len(differing), steps)[1:])
    return np.where(rank < due[:, None], target, source)
