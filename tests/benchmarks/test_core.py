"""The parts that run without Ray, against the bare work."""

import numpy as np
import pytest
import torch

from lbae import presets
from lbae.core.codec import Codec, best_precision, to_network
from lbae.core.correlation import nearest_correlation
from lbae.core.hyperplane import BLOCK, HyperplanePrior, gram_matrix, hyperplane_factor
from lbae.core.kernel import moment_sums
from lbae.core.network import LatentBernoulliAutoencoder
from lbae.core.packing import pack, unpack
from lbae.core.training import initial_state, train_epoch, training_step

N = 1500


@pytest.fixture(scope="module")
def latents() -> np.ndarray:
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(20_000, 40)) @ rng.normal(size=(40, N)) + 4 * rng.normal(size=(20_000, N))
    return np.where(hidden >= 0, np.int8(1), np.int8(-1))


def test_moment_sums(compare, latents):
    packed = pack(latents)
    compare(
        lambda: moment_sums(packed, N),
        lambda: unpack(packed, N).astype(np.float64).T @ unpack(packed, N).astype(np.float64),
        "as fast as float64 NumPy",
    )


def test_nearest_correlation(compare, latents):
    matrix = gram_matrix(moment_sums(pack(latents[:2000]), N).moment_matrix)
    compare(
        lambda: nearest_correlation(matrix, 1e-6),
        lambda: [np.linalg.eigh(matrix) for _ in range(8)],
        "as fast as eight eigendecompositions",
    )


def test_sampling(compare, latents):
    factor = hyperplane_factor(moment_sums(pack(latents), N).moment_matrix).astype(np.float32)
    prior = HyperplanePrior(weights=np.ones(1), factors=factor[None])
    rng = np.random.default_rng(0)

    def bare() -> None:
        for _ in range(16):
            np.sign(rng.standard_normal((BLOCK, N + 1), dtype=np.float32) @ factor.T)

    compare(lambda: prior.sample(16 * BLOCK, 0), bare, "as fast as bare randn, product and sign")


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
