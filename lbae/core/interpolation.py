"""Interpolation on the sphere (slide 5): slerp between typical normals of latents, so that the bits flip one after another.

Normals of equal margins would flip all differing bits at one point of the path; typical ones spread them.
"""

import itertools

import numpy as np
from jaxtyping import Int8

from lbae.core.normals import Normal, Normals


def slerp(source: Normal, target: Normal, t: float) -> Normal:
    """Spherical interpolation between the directions of two normals; t = 0 and t = 1 give the ends' directions."""
    a, b = source / np.linalg.norm(source), target / np.linalg.norm(target)
    angle = np.arccos(np.clip(a @ b, -1.0, 1.0))
    if angle < 1e-7:
        return a if t < 0.5 else b
    result: Normal = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    return result


def interpolate(normals: Normals, waypoints: Int8[np.ndarray, "P N"], steps: int, seed: int = 0) -> Int8[np.ndarray, "F N"]:
    """A path of latents through all waypoints, each exact; ``steps`` a leg with both its ends, F = (P - 1)(steps - 1) + 1.

    The boundary's side never changes along a leg: both ends lie on its positive side and slerp adds them with positive
    weights. A bit on which both ends agree keeps its sign for the same reason; a bit on which they differ changes it once.
    """
    if steps < 2 or len(waypoints) < 2:
        raise ValueError(f"{len(waypoints)} waypoints and steps = {steps}; a path needs at least 2 of each")
    # One generator for all waypoints: with the same margins, every differing bit would flip in the middle of a leg.
    rng = np.random.default_rng(seed)
    ends = [normals.typical(latent, rng) for latent in waypoints]
    path = [ends[0]]
    for source, target in itertools.pairwise(ends):
        path += [slerp(source, target, t) for t in np.linspace(0, 1, steps)[1:]]
    return normals.latents(np.stack(path))
