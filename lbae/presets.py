"""Presets: one configuration per data set; :func:`get` finds it by name."""

import dataclasses
from typing import Literal

from lbae.config import Config, ModelConfig, TrainConfig
from lbae.errors import unknown

Recipe = Literal["modern", "paper"]


def demo() -> Config:
    """A narrow network for the bundled MNIST sample.

    ``make demo`` takes three minutes on two cores and ends at a held-out loss of 71.
    """
    return Config(
        model=ModelConfig(latent_dim=128, image_size=32, padding=2, image_channels=1, channels=(16, 64, 128)),
        train=TrainConfig(loss="bce", batch_size=128, epochs=12, learning_rate=2e-3),
    )


def mnist() -> Config:
    """The paper's MNIST network and loss (28x28 padded to 32, N = 200, BCE).

    ``lbae train --preset mnist --data torchvision:mnist --out runs/mnist --workers 2``: 20 epochs take an
    hour on two cores with bfloat16 and end at a held-out loss of 60. All 30 epochs take a minute and a half
    on an H100 and end at 58.9.
    """
    return Config(
        model=ModelConfig(latent_dim=200, image_size=32, padding=2, image_channels=1),
        train=TrainConfig(loss="bce", epochs=30),
    )


def cifar10() -> Config:
    """CIFAR-10 (32x32, MSE): 8 x 8 cells of 9 bits, N = 576.

    ``lbae train --preset cifar10 --data torchvision:cifar10 --out runs/cifar10 --workers 2``: 20 epochs
    reconstruct the test images at 24.6 dB; the 2020 network reaches 22.3 (docs/measurements.md).
    """
    return _spatial(latent_dim=576, latent_grid=8, channels=(64, 192))


def celeba() -> Config:
    """CelebA (centre crop, 64x64, MSE): 16 x 16 cells of 6 bits, N = 1536.

    ``lbae train --preset celeba --data torchvision:celeba --out runs/celeba``: four epochs on 21,771 faces
    reconstruct validation faces at 24.3 dB (docs/results.md).
    """
    return _spatial(latent_dim=1536, latent_grid=16, channels=(64, 128))


def celeba128() -> Config:
    """Faces of 128x128 pixels: 16 x 16 cells of 12 bits, N = 3072.

    Only tried: two epochs on 1,800 enlarged faces, then all jobs (docs/measurements.md). A step of 64 images
    needs about 1 GiB of a GPU.
    """
    return _spatial(latent_dim=3072, latent_grid=16, channels=(64, 128, 192))


def celeba256() -> Config:
    """Faces of 256x256 pixels: 16 x 16 cells of 24 bits, N = 6144.

    Only tried: 24 steps, encoding and decoding (docs/measurements.md). A step of 64 images needs about
    2.5 GiB of a GPU.
    """
    return _spatial(latent_dim=6144, latent_grid=16, channels=(64, 128, 192, 192))


def _spatial(latent_dim: int, latent_grid: int, channels: tuple[int, ...]) -> Config:
    size = latent_grid * 2 ** len(channels)
    model = ModelConfig(latent_dim=latent_dim, image_size=size, channels=channels, latent_grid=latent_grid)
    train = TrainConfig(batch_size=64, learning_rate=1e-3, adam_beta2=0.98, epochs=60, flips=True)
    return Config(model=model, train=train)


_PRESETS = {preset.__name__: preset for preset in (demo, mnist, cifar10, celeba, celeba128, celeba256)}


# The networks of the original code, and networks of the same kind for larger images.
_PAPER_MODELS = {
    "cifar10": ModelConfig(latent_dim=600),
    "celeba": ModelConfig(latent_dim=1500, image_size=64, channels=(64, 128, 256, 256)),
    "celeba128": ModelConfig(latent_dim=3000, image_size=128, channels=(64, 128, 256, 256, 256)),
    "celeba256": ModelConfig(latent_dim=6000, image_size=256, channels=(64, 128, 256, 256, 256, 256)),
}


def get(name: str, recipe: Recipe = "modern") -> Config:
    """The configuration of a preset; UserError with the nearest name if ``name`` is unknown.

    The recipe ``paper`` has the network and sizes of 2020 and the optimiser settings of the original code:
    batches of 512, no flips, and a constant learning rate, 1e-4 for grey images and 1e-3 for colour. The
    original trained for up to 5,000 epochs; here the preset sets the number.
    """
    if name not in _PRESETS:
        raise unknown("preset", name, _PRESETS)
    config = _PRESETS[name]()
    if recipe == "modern":
        return config
    original = {
        "schedule": "constant",
        "warmup_fraction": 0.0,
        "flips": False,
        "adam_beta2": 0.999,
        "batch_size": 512,
        "learning_rate": 1e-4 if config.model.image_channels == 1 else 1e-3,
    }
    network = dataclasses.replace(config, model=_PAPER_MODELS.get(name, config.model))
    return network.replace(**original)
