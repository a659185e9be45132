import numpy as np
import pytest
import torch

from lbae import presets
from lbae.config import ModelConfig
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.network.codec import Codec, from_network, to_network
from lbae.errors import UserError

SMALL = ModelConfig(latent_dim=19, image_size=32, padding=2, image_channels=1, channels=(8, 8, 16))


def codec(config: ModelConfig = SMALL) -> Codec:
    network = LatentBernoulliAutoencoder(config, torch.Generator().manual_seed(0))
    return Codec(network, "float32")


def images(config: ModelConfig, count: int) -> np.ndarray:
    side, channels = config.content_size, config.image_channels
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("widths", [(8, 16, 16), (8, 8, 16, 16)])
def test_shapes_of_32_and_64_pixel_networks(channels, widths):
    config = ModelConfig(
        latent_dim=10, image_size=4 * 2 ** len(widths), image_channels=channels, channels=widths
    )
    network = LatentBernoulliAutoencoder(config)
    x = torch.rand(2, channels, config.image_size, config.image_size)
    z = network.encode(x)
    assert z.shape == (2, 10)
    assert set(z.unique().tolist()) <= {-1.0, 1.0}
    assert network(x)[0].shape == x.shape


@pytest.mark.parametrize(
    ("name", "side", "bits"),
    [("mnist", 28, 200), ("cifar10", 32, 600), ("celeba128", 128, 3000), ("celeba256", 256, 6000)],
)
def test_networks_of_the_presets_bring_images_back_at_their_size(name, side, bits):
    config = presets.get(name).model
    network, image = LatentBernoulliAutoencoder(config).eval(), torch.from_numpy(images(config, 1))
    with torch.inference_mode():
        latent = network.encode(to_network(image, config))
        assert latent.shape == (1, bits)
        assert from_network(network.decode_logits(latent), config).shape == (
            1,
            side,
            side,
            config.image_channels,
        )


def test_every_parameter_gets_a_gradient():
    network = LatentBernoulliAutoencoder(SMALL)
    network(torch.rand(4, 1, 32, 32))[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_latents_and_pixels_do_not_depend_on_the_neighbours():
    machine = codec()
    x = images(SMALL, machine.batch + 3)
    z = machine.encode(x)
    few = [0, 5, machine.batch + 2]
    np.testing.assert_array_equal(np.concatenate([machine.encode(x[i : i + 1]) for i in few]), z[few])
    np.testing.assert_array_equal(machine.decode(z[few[-1] :]), machine.decode(z)[few[-1] :])


def test_padding_goes_on_and_comes_off():
    x = torch.full((1, 28, 28, 1), 255, dtype=torch.uint8)
    padded = to_network(x, SMALL)
    assert padded.shape == (1, 1, 32, 32)
    assert padded[0, 0, 2:-2, 2:-2].eq(1).all()
    assert padded.sum() == 28 * 28
    assert codec().decode(codec().encode(images(SMALL, 2))).shape == (2, 28, 28, 1)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"images have shape \(32, 32, 1\); this model takes \(28, 28, 1\)"):
        codec().encode(np.zeros((1, 32, 32, 1), dtype=np.uint8))
    with pytest.raises(ValueError, match="20 bits wide; this model has N = 19"):
        codec().decode(np.ones((1, 20), dtype=np.int8))


def test_a_configuration_that_cannot_be_is_refused():
    with pytest.raises(UserError, match="image_size is 48; allowed: 32"):
        ModelConfig(image_size=48)
    with pytest.raises(UserError, match="latent_dim is 0; allowed: 1 to 65536"):
        ModelConfig(latent_dim=0)
