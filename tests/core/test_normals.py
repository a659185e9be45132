import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, stats

from lbae.core.latents.normals import NORMALS_FLOOR, Normals, pooled_factor
from lbae.core.latents.packing import pack
from lbae.core.moments.moment_accumulator import sum_packed


def correlated(bits: int, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Latents and two attributes that depend on 20 hidden variables."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(count, 20))
    values = hidden @ rng.normal(size=(20, bits)) + 2 * rng.normal(size=(count, bits)) + rng.normal(size=bits)
    return np.where(values >= 0, np.int8(1), np.int8(-1)), hidden[:, :2] > 0.5


LATENTS, PRESENT = correlated(80, 4000)
SUMS = sum_packed(pack(LATENTS), 80, ("a", "b"), PRESENT, ~PRESENT)
NORMALS = Normals(factor=pooled_factor(SUMS), latent_dim=80)
# As in older bundles: rows of attributes after the bits.
WITH_ATTRIBUTES = Normals(factor=linalg.block_diag(NORMALS.factor, np.eye(2)), latent_dim=80)


@given(st.integers(0, 3999), st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=50)
def test_a_normal_gives_its_latent_back(row, seed, flip):
    latent = -LATENTS[row] if flip else LATENTS[row]
    for normals in (NORMALS, WITH_ATTRIBUTES):
        normal = normals.typical(latent, np.random.default_rng(seed))
        assert normal[0] > 0
        np.testing.assert_array_equal(normals.latents(normal[None])[0], latent)


def test_a_draw_depends_on_its_seed_alone():
    first, again, other = (NORMALS.typical(LATENTS[0], np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_norms_are_those_of_random_normals():
    rng = np.random.default_rng(0)
    norms = np.linalg.norm([NORMALS.typical(latent, rng) for latent in LATENTS[:400]], axis=1)
    assert np.mean(np.abs(np.log(norms / np.sqrt(81))) < np.log(1.25)) >= 0.98
    assert stats.kstest(norms, stats.chi(81).cdf).pvalue > 0.01


def test_margins_are_those_of_random_normals():
    """For latents of random normals, drawn normals have the average margins of the original ones."""
    rng = np.random.default_rng(1)
    made = rng.normal(size=(400, 81))
    made[:, 0] = np.abs(made[:, 0])
    drawn = np.array([NORMALS.typical(latent, rng) for latent in NORMALS.latents(made)])
    margins, wanted = (np.abs(normals @ NORMALS.factor.T).mean(axis=0) for normals in (drawn, made))
    assert abs(margins.mean() / wanted.mean() - 1) < 0.05


def test_draws_have_the_moments_of_the_truncated_gaussian():
    """Two bits; the oracle is rejection sampling from N(0, I)."""
    factor = linalg.cholesky(np.array([[1, 0.6, -0.3], [0.6, 1, 0.4], [-0.3, 0.4, 1]]), lower=True)
    latent = np.array([1, -1], dtype=np.int8)
    rng = np.random.default_rng(0)
    normals = Normals(factor=factor, latent_dim=2)
    chain = normals._draws(np.array([1.0, 1.0, -1.0]), rng)
    drawn = np.array([next(chain) for _ in range(60_000)])[1000::10]
    wanted = rng.normal(size=(200_000, 3)) @ factor.T
    wanted = wanted[((wanted >= 0) == [True, True, False]).all(axis=1)]
    np.testing.assert_array_equal(normals.latents(normals.typical(latent, rng)[None])[0], latent)
    np.testing.assert_allclose(drawn.mean(axis=0), wanted.mean(axis=0), atol=0.06)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(wanted.T), atol=0.06)


def test_the_factor_has_unit_rows_and_the_floor():
    factor = NORMALS.factor
    assert factor.shape == (81, 81)
    assert linalg.eigvalsh(factor @ factor.T)[0] > 0.999 * NORMALS_FLOOR
    np.testing.assert_allclose(np.linalg.norm(factor, axis=1), 1)
