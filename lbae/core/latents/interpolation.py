"""Spherical interpolation (slerp) between typical normals of latents; bits flip one by one (slide 5).

Up to length, slerp between normals a and b at the angle w passes through sin((1 - s) w) a + sin(s w) b for s
from 0 to 1. Let bit i have the margins A_i = |<V_i, a>| and B_i = |<V_i, b>|, and different signs at the
ends. It flips where sin(s w) / sin((1 - s) w) = A_i / B_i. The left side grows with s, so bits flip in the
order of A_i / B_i. With equal margins at both ends, all would flip at one point.
"""

import itertools

import numpy as np
from jaxtyping import Float64, Int8

from lbae.core.latents.normals import Normals


def interpolate(
    normals: Normals, waypoints: Int8[np.ndarray, "P N"], steps: int, seed: int = 0
) -> Int8[np.ndarray, "F N"]:
    """Return a path of latents that passes exactly through all waypoints.

    Each leg has ``steps`` frames, including both its ends: F = (P - 1)(steps - 1) + 1.

    The frames are latents of slerp between typical normals. They are spaced so that every step flips the same
    number of bits, give or take one. At equal angles, a single step can hold a third of all flips.

    ValueError for fewer than two waypoints or two steps.
    """
    if steps < 2 or len(waypoints) < 2:
        raise ValueError(f"{len(waypoints)} waypoints and steps = {steps}; a path needs at least 2 of each")
    # One generator for all waypoints. With the same seed for both ends their margins would be alike, and all
    # differing bits would flip in the middle of a leg.
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
    """The frames after ``source``; differing bits take the target's value in ascending ``order``."""
    differing = np.flatnonzero(source != target)
    rank = np.full(len(source), len(source))
    rank[differing[np.argsort(order[differing], kind="stable")]] = np.arange(len(differing))
    due = np.round(np.linspace(0, len(differing), steps)[1:])
    return np.where(rank < due[:, None], target, source)
