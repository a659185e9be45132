"""Interpolation on the sphere (slide 5): exact hyperplane normals of two latents, and the path between them.

With V invertible every latent b has normals r with V r = m o [1; b], margins m > 0: the latent is recovered exactly. Equal
margins would flip all differing bits at one point of the path; margins |N(0, 1)|, those of a random normal, spread them.
"""

import itertools

import numpy as np
from jaxtyping import Float64, Int8
from scipy import linalg

# The pooled factor for normals needs well-conditioned solves, or the norm of r explodes.
NORMALS_FLOOR = 1e-2
# Far above the rounding error of the solve and of the product that recovers the latent (about 1e-12).
_MIN_MARGIN = 1e-3

Normal = Float64[np.ndarray, "M"]


def hyperplane_normal(factor: Float64[np.ndarray, "M M"], latent: Int8[np.ndarray, "N"], rng: np.random.Generator) -> Normal:
    """A normal whose hyperplane splits the rows of V (boundary first) into exactly this latent."""
    signs = np.concatenate(([1.0], latent))
    margins = np.maximum(np.abs(rng.standard_normal(len(signs))), _MIN_MARGIN)
    normal: Normal = linalg.solve_triangular(factor, signs * margins, lower=True, check_finite=False)
    return normal


def slerp(source: Normal, target: Normal, t: float) -> Normal:
    """Spherical interpolation between the directions of two normals; t = 0 and t = 1 give the ends' directions."""
    a, b = source / np.linalg.norm(source), target / np.linalg.norm(target)
    angle = np.arccos(np.clip(a @ b, -1.0, 1.0))
    if angle < 1e-7:
        return a if t < 0.5 else b
    result: Normal = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    return result


def interpolate(
    factor: Float64[np.ndarray, "M M"], waypoints: Int8[np.ndarray, "P N"], steps: int, seed: int = 0
) -> Int8[np.ndarray, "F N"]:
    """A path of latents through all waypoints, each exact; ``steps`` a leg with both its ends, F = (P - 1)(steps - 1) + 1.

    The boundary's side never changes along a leg: both ends lie on its positive side and slerp adds them with positive
    weights. A bit on which both ends agree keeps its sign for the same reason; a bit on which they differ changes it once.
    """
    if steps < 2 or len(waypoints) < 2:
        raise ValueError(f"{len(waypoints)} waypoints and steps = {steps}; a path needs at least 2 of each")
    # Margins are drawn anew for every waypoint: with the same ones, every differing bit would flip in the middle of a leg.
    rng = np.random.default_rng(seed)
    normals = [hyperplane_normal(factor, latent, rng) for latent in waypoints]
    path = [normals[0]]
    for source, target in itertools.pairwise(normals):
        path += [slerp(source, target, t) for t in np.linspace(0, 1, steps)[1:]]
    return np.where(np.stack(path) @ factor.T >= 0, np.int8(1), np.int8(-1))[:, 1:]
