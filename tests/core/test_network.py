import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from lbae import presets
from lbae.config import Config, ModelConfig
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder, unfilled
from lbae.core.network.codec import Codec, from_network, to_network
from lbae.errors import UserError
from tests.conftest import ROOT

SMALL = ModelConfig(latent_dim=19, image_size=32, padding=2, image_channels=1, channels=(8, 8, 16))
CELLS = ModelConfig(latent_dim=192, image_size=32, image_channels=1, channels=(8, 16), latent_grid=8)


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
    [("mnist", 28, 200), ("cifar10", 32, 576), ("celeba128", 128, 3072), ("celeba256", 256, 6144)],
)
def test_preset_networks_keep_the_size_of_images(name, side, bits):
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


@pytest.mark.parametrize("config", [SMALL, CELLS])
def test_every_parameter_gets_a_gradient(config):
    network = LatentBernoulliAutoencoder(config)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    for _ in range(2):  # residual branches of cells start at zero, so gradients inside them need a step
        optimizer.zero_grad()
        network(torch.rand(4, 1, 32, 32))[0].square().sum().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_a_latent_holds_cells_row_by_row_and_the_bits_of_a_cell_together():
    network = LatentBernoulliAutoencoder(CELLS, torch.Generator().manual_seed(0)).eval()
    latents = torch.ones(1, CELLS.latent_dim)
    row, column, bits, pixels = 5, 2, 3, 4  # of a cell; it covers 4 x 4 pixels
    latents[0, bits * (8 * row + column) :][:bits] = -1
    with torch.inference_mode():
        changed = network.decode_logits(latents) != network.decode_logits(torch.ones(1, CELLS.latent_dim))
    _, _, rows, columns = changed.nonzero(as_tuple=True)
    # Before training, blocks and attention are the identity, so a cell reaches only its neighbourhood.
    assert rows.min() >= pixels * (row - 2)
    assert rows.max() < pixels * (row + 3)
    assert columns.min() >= pixels * (column - 2)
    assert columns.max() < pixels * (column + 3)
    images = torch.rand(1, 1, 32, 32)
    moved = images.clone()
    moved[:, :, :4, :4] = 1 - moved[:, :, :4, :4]
    with torch.inference_mode():
        far = (network.encoder(images) != network.encoder(moved)).reshape(8, 8, bits)
    assert far[:2, :2].any()
    assert not far[3:, :].any()
    assert not far[:, 3:].any()


def test_cells_see_each_other_by_attention():
    network = LatentBernoulliAutoencoder(CELLS, torch.Generator().manual_seed(0)).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    images = torch.rand(1, 1, 32, 32)
    moved = images.clone()
    moved[:, :, :4, :4] = 1 - moved[:, :, :4, :4]
    with torch.inference_mode():
        cells = (network.encoder(images) != network.encoder(moved)).reshape(8, 8, 3)
    assert cells[7, 7].any()


@pytest.mark.parametrize("config", [SMALL, CELLS])
def test_latents_and_pixels_do_not_depend_on_the_neighbours(config):
    machine = codec(config)
    x = images(config, machine.rows + 3)
    z = machine.encode(x)
    few = [0, 5, machine.rows + 2]
    np.testing.assert_array_equal(np.concatenate([machine.encode(x[i : i + 1]) for i in few]), z[few])
    np.testing.assert_array_equal(machine.decode(z[few[-1] :]), machine.decode(z)[few[-1] :])


def test_padding_is_added_and_removed():
    x = torch.full((1, 28, 28, 1), 255, dtype=torch.uint8)
    padded = to_network(x, SMALL)
    assert padded.shape == (1, 1, 32, 32)
    assert padded[0, 0, 2:-2, 2:-2].eq(1).all()
    assert padded.sum() == 28 * 28
    assert codec().decode(codec().encode(images(SMALL, 2))).shape == (2, 28, 28, 1)


def test_wrong_shapes_are_refused():
    with pytest.raises(
        ValueError, match=r"images have shape .*32, 32, 1\); this model takes \(K, 28, 28, 1\)"
    ):
        codec().encode(np.zeros((1, 32, 32, 1), dtype=np.uint8))
    with pytest.raises(ValueError, match="20 bits wide; this model has N = 19"):
        codec().decode(np.ones((1, 20), dtype=np.int8))


def test_invalid_configurations_are_refused():
    with pytest.raises(UserError, match="image_size is 48; allowed: 32"):
        ModelConfig(image_size=48)
    with pytest.raises(UserError, match="latent_dim is 0; allowed: 1 to 65536"):
        ModelConfig(latent_dim=0)
    cells = {"latent_grid": 8, "channels": (8, 8)}
    with pytest.raises(
        UserError,
        match="latent_dim is 600; allowed: multiples of 64, the cells of latent_grid 8, such as 576 or 640",
    ):
        ModelConfig(latent_dim=600, **cells)
    with pytest.raises(UserError, match=r"image_size is 64; allowed: 32, which is 8 \* 2 \*\* 2 stages"):
        ModelConfig(latent_dim=64, image_size=64, **cells)
    with pytest.raises(UserError, match="bottleneck is 'gaussian'; allowed: bernoulli with latent_grid 8"):
        ModelConfig(latent_dim=64, bottleneck="gaussian", **cells)
    with pytest.raises(UserError, match="latent_grid is 0; allowed: 1"):
        ModelConfig(latent_grid=0)


@pytest.mark.parametrize("config", [SMALL, CELLS])
def test_an_unfilled_network_has_the_shapes_of_a_filled_one_and_no_memory(config):
    network, filled = unfilled(config), LatentBernoulliAutoencoder(config)
    shapes = {name: (value.shape, value.dtype) for name, value in network.state_dict().items()}
    assert shapes == {name: (value.shape, value.dtype) for name, value in filled.state_dict().items()}
    assert all(value.is_meta for value in network.state_dict().values())
    network.load_state_dict(filled.state_dict(), assign=True)
    x = to_network(torch.from_numpy(images(config, 2)), config)
    torch.testing.assert_close(network.eval()(x)[0], filled.eval()(x)[0], rtol=0, atol=0)
    assert all(value.requires_grad for value in network.parameters())


def test_an_unfilled_network_imports_nothing_large():
    """Drawing weights on torch's device "meta" would import its decompositions and SymPy, 160 MB."""
    code = (
        "import sys; from lbae.presets import get; from lbae.core.network.autoencoder import unfilled;"
        " [unfilled(get(name).model) for name in ('mnist', 'celeba')]; assert 'sympy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_configuration_of_a_global_code_omits_latent_grid():
    tree = Config(model=SMALL).to_dict()
    assert "latent_grid" not in tree["model"]  # else the fingerprints of older models would change
    assert Config.from_dict(tree).model == SMALL
    assert Config.from_dict(Config(model=CELLS).to_dict()).model == CELLS


def test_the_configuration_omits_how_steps_run_by_default():
    assert not {"gradients", "compiled"} & set(Config().to_dict()["train"])  # as above
    changed = Config().replace(gradients="bfloat16", compiled=True)
    assert Config.from_dict(changed.to_dict()) == changed
    with pytest.raises(UserError, match=r"gradients is 'float16'; allowed: float32, bfloat16"):
        Config().replace(gradients="float16")
