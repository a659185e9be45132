import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbae.core.latents.interpolation import interpolate
from lbae.core.latents.normals import Normals
from lbae.core.prior.correlation import correlation_factor
from tests.core import test_normals

NORMALS = Normals(
    factor=correlation_factor(np.corrcoef(np.random.default_rng(0).normal(size=(31, 90))), 1e-2),
    latent_dim=30,
)


def latent(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array([-1, 1], dtype=np.int8), size=30)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(2, 25))
@settings(deadline=None)
def test_ends_are_exact_and_every_bit_changes_at_most_once(a, b, steps):
    source, target = latent(a), latent(b)
    path = interpolate(NORMALS, np.stack([source, target]), steps)
    np.testing.assert_array_equal(path[0], source)
    np.testing.assert_array_equal(path[-1], target)
    np.testing.assert_array_equal((path[1:] != path[:-1]).sum(axis=0), source != target)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_frames_are_latents_of_slerp_between_the_normals(a, b):
    """With one frame per flip, the path holds every latent that a finely sampled slerp passes."""
    ends = np.stack([latent(a), latent(b)])
    path = interpolate(NORMALS, ends, 1 + max(1, int((ends[0] != ends[1]).sum())), seed=3)
    rng = np.random.default_rng(3)
    source, target = (NORMALS.typical(end, rng) for end in ends)
    source, target = source / np.linalg.norm(source), target / np.linalg.norm(target)
    angle = np.arccos(source @ target)
    places = np.linspace(0, 1, 20_000)[:, None]
    passed = NORMALS.latents(np.sin((1 - places) * angle) * source + np.sin(places * angle) * target)
    passed = passed[np.insert((passed[1:] != passed[:-1]).any(axis=1), 0, True)]
    assert {row.tobytes() for row in passed} <= {row.tobytes() for row in path}


def test_flips_spread_evenly_over_the_path():
    ends = test_normals.LATENTS[:120].reshape(60, 2, -1)
    for seed, pair in enumerate(ends):
        path = interpolate(test_normals.NORMALS, pair, 12, seed)
        flips = (path[1:] != path[:-1]).sum(axis=1)
        assert flips.max() - flips.min() <= 1
        assert len(np.unique(path, axis=0)) == min(12, 1 + flips.sum())


def test_a_path_depends_on_its_seed_alone():
    waypoints = np.stack([latent(0), latent(1)])
    np.testing.assert_array_equal(
        interpolate(NORMALS, waypoints, 12, 5), interpolate(NORMALS, waypoints, 12, 5)
    )


def test_a_path_needs_two_waypoints_and_two_steps():
    with pytest.raises(ValueError, match="2 waypoints and steps = 1; a path needs at least 2 of each"):
        interpolate(NORMALS, np.stack([latent(0), latent(1)]), 1)
    with pytest.raises(ValueError, match="1 waypoints"):
        interpolate(NORMALS, latent(0)[None], 5)


def test_a_path_leads_through_all_waypoints():
    waypoints = np.stack([latent(seed) for seed in range(4)])
    path = interpolate(NORMALS, waypoints, 6)
    assert len(path) == 16
    np.testing.assert_array_equal(path[::5], waypoints)
