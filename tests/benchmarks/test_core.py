"""The mathematics and the network without Ray, compared with the bare work."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from scipy import linalg, optimize, special, stats

from lbae import presets
from lbae.core.latents.normals import Normals, pooled_factor
from lbae.core.latents.packing import pack
from lbae.core.moments.moment_accumulator import sum_packed
from lbae.core.moments.moment_sums import MomentSums
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.network.codec import Codec, best_precision, to_network
from lbae.core.network.feed import Resident
from lbae.core.network.training import initial_state, train_epoch, training_step
from lbae.core.prior.correlation import nearest_correlation
from lbae.core.prior.gaussian import tetrachoric
from lbae.core.prior.hyperplane import gram_matrix, hyperplane_factor
from lbae.core.prior.prior import BLOCK, Prior
from lbae.core.prior.samplers import SAMPLING_FLOOR, fit_sampler
from tests.benchmarks.conftest import busy_neighbour

N = 1500


@pytest.fixture(scope="module")
def latents() -> np.ndarray:
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(20_000, 40)) @ rng.normal(size=(40, N)) + 4 * rng.normal(size=(20_000, N))
    return np.where(hidden >= 0, np.int8(1), np.int8(-1))


def test_nearest_correlation(compare, latents):
    matrix = gram_matrix(sum_packed(pack(latents[:2000]), N).moment_matrix)
    compare(
        lambda: nearest_correlation(matrix, 1e-6),
        lambda: [np.linalg.eigh(matrix) for _ in range(8)],
        "as fast as eight eigendecompositions",
    )


def original_factor(latents: np.ndarray) -> np.ndarray:
    """The paper's method: float64 moments, D'Errico's nearestSPD by an SVD, and a Cholesky factor."""
    augmented = np.concatenate([latents, np.ones((len(latents), 1))], axis=1)
    gram = np.cos(np.pi / 2 * (1 - augmented.T @ augmented / len(augmented)))
    _, singular, right = np.linalg.svd(gram)
    matrix = (gram + right.T @ (singular[:, None] * right)) / 2
    matrix, tries = (matrix + matrix.T) / 2, 1
    spacing = np.spacing(np.linalg.norm(gram))
    while True:
        try:
            return np.linalg.cholesky(matrix)
        except np.linalg.LinAlgError:
            least = np.linalg.eigvals(matrix).real.min()
            matrix += np.eye(len(matrix)) * (spacing - least * tries**2)
            tries += 1


def clipped_factor(moments: MomentSums) -> np.ndarray:
    """A quick repair that the package does not use: clip the eigenvalues, then scale rows to unit length."""
    values, vectors = linalg.eigh(gram_matrix(moments.moment_matrix), driver="evd", check_finite=False)
    root = vectors * np.sqrt(np.maximum(values, SAMPLING_FLOOR))
    root /= np.linalg.norm(root, axis=1, keepdims=True)
    return linalg.cholesky(root @ root.T, lower=True, check_finite=False)


@pytest.mark.parametrize("repair", ["nearest", "clipped"])
def test_fit(compare, latents, repair):
    packed = pack(latents)

    def ours() -> np.ndarray:
        moments = sum_packed(packed, N)
        if repair == "clipped":
            return clipped_factor(moments)
        return hyperplane_factor(moments.moment_matrix, SAMPLING_FLOOR)

    compare(ours, lambda: original_factor(latents), "as fast as the original's fit of 20,000 latents")


def bare_loop(prior: Prior, dtype: type[np.floating]) -> None:
    """Draw sixteen blocks of one component: normals, product, sign."""
    rng, factor = np.random.default_rng(0), prior.factors[0].T.astype(dtype)
    for _ in range(16):
        np.sign(rng.standard_normal((BLOCK, N + 1), dtype=dtype) @ factor)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sampling(compare, latents, dtype):
    prior = fit_sampler("hyperplane", sum_packed(pack(latents), N))
    meaning = f"as fast as bare {dtype.__name__} randn, product and sign"
    compare(lambda: prior.sample(16 * BLOCK, 0), lambda: bare_loop(prior, dtype), meaning)


def test_sampling_a_mixture(compare, latents):
    """Fifty components; a block draws the rows of one component together, about five of 256."""
    one = fit_sampler("hyperplane", sum_packed(pack(latents), N))
    mixture = Prior(
        sampler="hyperplane", weights=np.full(50, 1 / 50), factors=np.repeat(one.factors, 50, axis=0)
    )
    compare(
        lambda: mixture.sample(16 * BLOCK, 0),
        lambda: bare_loop(one, np.float32),
        "as fast as bare randn, product and sign with one component",
    )


def test_tetrachoric(compare):
    """All pairs of 1,500 bits, compared with SciPy's root finder and bivariate normal on 20 pairs."""
    rng = np.random.default_rng(0)
    pairs, few = N * (N - 1) // 2, 20
    first, second = rng.uniform(0.1, 0.9, (2, pairs))
    least, most = np.maximum(0, first + second - 1) + 1e-3, np.minimum(first, second) - 1e-3
    both = np.clip(first * second * (1 + 0.1 * rng.normal(size=pairs)), least, most)

    def one(p: float, q: float, together: float) -> float:
        at = [special.ndtri(p), special.ndtri(q)]
        return optimize.brentq(
            lambda r: stats.multivariate_normal.cdf(at, cov=[[1, r], [r, 1]]) - together, -0.9999, 0.9999
        )

    compare(
        lambda: tetrachoric(first, second, both),
        lambda: [one(*pair) for pair in zip(first[:few], second[:few], both[:few], strict=True)],
        f"as fast as SciPy on {few} of {pairs} pairs; per pair, multiply by {pairs // few}",
    )


def test_training(compare):
    config = presets.get("demo")
    precision = best_precision(torch.device("cpu"))
    images = torch.randint(0, 256, (1024, 28, 28, 1), dtype=torch.uint8)
    networks = [
        LatentBernoulliAutoencoder(config.model).to(memory_format=torch.channels_last) for _ in range(2)
    ]
    ours, bare = (initial_state(network, config.train) for network in networks)

    def loop() -> None:
        bare.network.train()
        for chunk in torch.split(images, 128):
            training_step(
                bare.network, bare.optimizer, to_network(chunk, config.model), config.train.loss, precision
            )

    def epoch() -> None:
        train_epoch(ours, ours.network, Resident(images, 128, 8, 0), config.train, precision=precision)

    compare(epoch, loop, "as fast as a bare loop over the same batches")


def test_encoding(compare):
    config = presets.get("demo").model
    network = LatentBernoulliAutoencoder(config)
    images = np.random.default_rng(0).integers(0, 256, (2048, 28, 28, 1), dtype=np.uint8)
    fast, plain = Codec(network, best_precision(torch.device("cpu"))), Codec(network, "float32")
    compare(lambda: fast.encode(images), lambda: plain.encode(images), "as fast as float32")


@pytest.mark.parametrize("beside", [nullcontext, busy_neighbour])
def test_batches_on_one_thread_each(compare, beside):
    network, precision = LatentBernoulliAutoencoder(presets.get("cifar10").model), "bfloat16"
    latents = np.random.default_rng(0).choice([-1, 1], (256, 576)).astype(np.int8)
    codec = Codec(network, precision)

    @torch.inference_mode()
    def one_after_another() -> None:
        for chunk in torch.split(torch.from_numpy(latents), 64):
            with torch.autocast("cpu", torch.bfloat16):
                network.decode_logits(chunk.float())

    with beside():
        compare(
            lambda: codec.decode(latents),
            one_after_another,
            f"as fast as batches on all threads, {beside.__name__}",
        )


def test_normals(compare, latents):
    """One typical normal; what depends on the factor alone is computed before."""
    normals = Normals(factor=pooled_factor(sum_packed(pack(latents), N)), latent_dim=N)
    rng = np.random.default_rng(0)
    sides = rng.standard_normal(N + 1)

    def solves() -> None:
        for _ in range(20):
            linalg.solve_triangular(normals.factor, sides, lower=True, check_finite=False)

    compare(lambda: normals.typical(latents[0], rng), solves, "as fast as 20 triangular solves")
