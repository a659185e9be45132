"""Presets: one function per data set; ``get`` finds it by name."""

from typing import Literal

from lbae.config import Config, ModelConfig, TrainConfig
from lbae.errors import unknown

Recipe = Literal["modern", "paper"]


def demo() -> Config:
    """A narrow network for the bundled MNIST sample: ``make demo``, three minutes on two cores, held-out loss
    71.
    """
    return Config(
        model=ModelConfig(latent_dim=128, image_size=32, padding=2, image_channels=1, channels=(16, 64, 128)),
        train=TrainConfig(loss="bce", batch_size=128, epochs=12, learning_rate=2e-3),
    )


def mnist() -> Config:
    """The paper's MNIST network and loss (28x28 padded to 32, N = 200, BCE).

    ``lbae train --preset mnist --data torchvision:mnist --out runs/mnist --workers 2``: 20 epochs
    take an hour on two cores with bfloat16 and end at a held-out loss of 60; all 30 take a minute and a half
    on an H100, and end at 58.9.
    """
    return Config(
        model=ModelConfig(latent_dim=200, image_size=32, padding=2, image_channels=1),
        train=TrainConfig(loss="bce", epochs=30),
    )


def cifar10() -> Config:
    """The paper's CIFAR-10 network and loss (32x32, N = 600, MSE).

    ``lbae train --preset cifar10 --data torchvision:cifar10 --out runs/cifar10 --workers 2``: 20
    epochs take 50 minutes on two cores with bfloat16 and end at a held-out loss of 18.5; all 60 take two and
    a half on an H100, and end at 15.3.
    """
    return Config(model=ModelConfig(latent_dim=600, image_size=32), train=TrainConfig(epochs=60, flips=True))


def celeba() -> Config:
    """The paper's CelebA network and loss (centre crop to 64x64, N = 1500, MSE); for a GPU, three epochs
    trained by us.

    ``lbae train --preset celeba --data torchvision:celeba --out runs/celeba``
    """
    return _faces(latent_dim=1500, stages=4)


def celeba128() -> Config:
    """One more stage than ``celeba``, twice the bits: 128x128, N = 3000. Not trained by us."""
    return _faces(latent_dim=3000, stages=5)


def celeba256() -> Config:
    """Two more stages than ``celeba``: 256x256, N = 6000. Not trained by us."""
    return _faces(latent_dim=6000, stages=6)


def _faces(latent_dim: int, stages: int) -> Config:
    channels = (64, 128, *[256] * (stages - 2))
    return Config(
        model=ModelConfig(latent_dim=latent_dim, image_size=4 * 2**stages, channels=channels),
        train=TrainConfig(epochs=60, flips=True),
    )


_PRESETS = {preset.__name__: preset for preset in (demo, mnist, cifar10, celeba, celeba128, celeba256)}


def get(name: str, recipe: Recipe = "modern") -> Config:
    """The preset called ``name``; UserError with the nearest name when there is none.

    The recipe ``paper`` has the original code's optimiser settings: a constant learning rate, on grey digits
    a tenth of the others', no flips, batches of 512. It went on for up to 5,000 epochs, here for as many as
    the preset says.
    """
    if name not in _PRESETS:
        raise unknown("preset", name, _PRESETS)
    config = _PRESETS[name]()
    if recipe == "modern":
        return config
    rate = 1e-4 if config.model.image_channels == 1 else 1e-3
    original = {
        "schedule": "constant",
        "warmup_fraction": 0.0,
        "flips": False,
        "batch_size": 512,
        "learning_rate": rate,
    }
    return config.replace(**original)
