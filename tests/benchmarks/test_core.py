"""The parts that run without Ray, against the bare work."""

import numpy as np
import pytest
import torch
from scipy import linalg, optimize, special, stats

from lbae import presets
from lbae.core.codec import Codec, best_precision, to_network
from lbae.core.correlation import nearest_correlation
from lbae.core.gaussian import tetrachoric
from lbae.core.hyperplane import gram_matrix
from lbae.core.kernel import moment_sums
from lbae.core.network import LatentBernoulliAutoencoder
from lbae.core.normals import Normals, pooled_factor
from lbae.core.packing import pack
from lbae.core.prior import BLOCK
from lbae.core.samplers import fit
from lbae.core.training import initial_state, train_epoch, training_step

N = 1500


@pytest.fixture(scope="module")
def latents() -> np.ndarray:
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(20_000, 40)) @ rng.normal(size=(40, N)) + 4 * rng.normal(size=(20_000, N))
    return np.where(hidden >= 0, np.int8(1), np.int8(-1))


def test_nearest_correlation(compare, latents):
    matrix = gram_matrix(moment_sums(pack(latents[:2000]), N).moment_matrix)
    compare(
        lambda: nearest_correlation(matrix, 1e-6),
        lambda: [np.linalg.eigh(matrix) for _ in range(8)],
        "as fast as eight eigendecompositions",
    )


def test_sampling(compare, latents):
    prior = fit("hyperplane", moment_sums(pack(latents), N))
    rng = np.random.default_rng(0)

    def bare() -> None:
        for _ in range(16):
            np.sign(rng.standard_normal((BLOCK, N + 1), dtype=np.float32) @ prior.factors[0].T)

    compare(lambda: prior.sample(16 * BLOCK, 0), bare, "as fast as bare randn, product and sign")


def test_tetrachoric(compare):
    """All pairs of 1,500 bits against SciPy's root finder and bivariate normal on 20 of them."""
    rng = np.random.default_rng(0)
    pairs, few = N * (N - 1) // 2, 20
    first, second = rng.uniform(0.1, 0.9, (2, pairs))
    least, most = np.maximum(0, first + second - 1) + 1e-3, np.minimum(first, second) - 1e-3
    both = np.clip(first * second * (1 + 0.1 * rng.normal(size=pairs)), least, most)

    def one(p: float, q: float, together: float) -> float:
        at = [special.ndtri(p), special.ndtri(q)]
        return optimize.brentq(lambda r: stats.multivariate_normal.cdf(at, cov=[[1, r], [r, 1]]) - together, -0.9999, 0.9999)

    compare(
        lambda: tetrachoric(first, second, both),
        lambda: [one(*pair) for pair in zip(first[:few], second[:few], both[:few], strict=True)],
        f"as fast as SciPy on {few} of {pairs} pairs: {pairs // few} times that for a pair",
    )


def test_training(compare):
    config = presets.get("demo")
    precision = best_precision(torch.device("cpu"))
    images = torch.randint(0, 256, (1024, 28, 28, 1), dtype=torch.uint8)
    networks = [LatentBernoulliAutoencoder(config.model).to(memory_format=torch.channels_last) for _ in range(2)]
    ours, bare = (initial_state(network, config.train) for network in networks)

    def loop() -> None:
        bare.network.train()
        for chunk in torch.split(images, 128):
            training_step(bare.network, bare.optimizer, to_network(chunk, config.model), config.train.loss, precision)

    def epoch() -> None:
        train_epoch(ours, ours.network, images, config.train, batch=128, steps=8, precision=precision)

    compare(epoch, loop, "as fast as a bare loop over the same batches")


def test_encoding(compare):
    config = presets.get("demo").model
    network = LatentBernoulliAutoencoder(config)
    images = np.random.default_rng(0).integers(0, 256, (2048, 28, 28, 1), dtype=np.uint8)
    fast, plain = Codec(network, best_precision(torch.device("cpu"))), Codec(network, "float32")
    compare(lambda: fast.encode(images), lambda: plain.encode(images), "as fast as float32")


def test_normals(compare, latents):
    """One typical normal; what depends on the factor only is made before."""
    normals = Normals(factor=pooled_factor(moment_sums(pack(latents), N)), latent_dim=N)
    rng = np.random.default_rng(0)
    sides = rng.standard_normal(N + 1)

    def solves() -> None:
        for _ in range(20):
            linalg.solve_triangular(normals.factor, sides, lower=True, check_finite=False)

    compare(lambda: normals.typical(latents[0], rng), solves, "as fast as 20 triangular solves")
