import pytest
import torch
from torch.distributions import Normal, kl_divergence

from lbae import presets
from lbae.config import ModelConfig
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.network.bottleneck import squeeze, width
from lbae.errors import UserError


def test_the_loss_term_is_the_divergence_from_a_standard_normal():
    activations = torch.randn(7, 10)
    mean, log_variance = activations.chunk(2, dim=1)
    codes, price = squeeze(activations, "gaussian", training=False)
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum() / 7
    torch.testing.assert_close(price, expected)
    torch.testing.assert_close(codes, mean)


def test_gaussian_codes_are_drawn_in_training():
    activations = torch.cat([torch.full((20_000, 1), 3.0), torch.full((20_000, 1), 4.0).log()], dim=1)
    codes, _ = squeeze(activations, "gaussian", training=True)
    assert codes.mean() == pytest.approx(3, abs=0.1)
    assert codes.var() == pytest.approx(4, abs=0.2)


@pytest.mark.parametrize("kind", ["bernoulli", "continuous", "gaussian"])
def test_codes_take_no_more_bits_than_the_latent(kind):
    inputs, numbers = width(600, kind)
    codes, _ = squeeze(torch.randn(2, inputs), kind, training=True)
    assert codes.shape == (2, numbers)
    assert numbers * (1 if kind == "bernoulli" else 32) <= 600


def test_a_baseline_has_the_same_network_around_its_bottleneck():
    ours, theirs = (
        LatentBernoulliAutoencoder(
            ModelConfig(latent_dim=64, channels=(8, 8, 8), bottleneck=kind)
        ).state_dict()
        for kind in ("bernoulli", "continuous")
    )
    other = [name for name in ours if ours[name].shape != theirs[name].shape]
    assert other == ["encoder.7.weight", "encoder.7.bias", "decoder.0.weight"]


def test_a_baseline_needs_at_least_32_bits():
    with pytest.raises(UserError, match="latent_dim is 31; allowed: 32 to 65536"):
        ModelConfig(latent_dim=31, bottleneck="gaussian")


@pytest.mark.parametrize(
    ("name", "rate", "bits"), [("mnist", 1e-4, 200), ("cifar10", 1e-3, 600), ("celeba", 1e-3, 1500)]
)
def test_the_paper_recipe_matches_the_authors_code(name, rate, bits):
    config = presets.get(name, "paper")
    assert (config.train.batch_size, config.train.learning_rate, config.train.schedule) == (
        512,
        rate,
        "constant",
    )
    assert (config.model.latent_dim, config.model.latent_grid) == (bits, 1)
