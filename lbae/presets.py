"""Presets: one function a data set; ``get`` finds it by name."""

from lbae.config import Config, ModelConfig, TrainConfig
from lbae.errors import unknown


def demo() -> Config:
    """A narrow network for the bundled MNIST sample: ``make demo``."""
    return Config(
        model=ModelConfig(latent_dim=128, image_size=32, padding=2, image_channels=1, channels=(16, 64, 128)),
        train=TrainConfig(loss="bce", batch_size=128, epochs=12, learning_rate=2e-3),
    )


def mnist() -> Config:
    """The paper's MNIST network and loss (28x28 padded to 32, N = 200, BCE)."""
    return Config(
        model=ModelConfig(latent_dim=200, image_size=32, padding=2, image_channels=1),
        train=TrainConfig(loss="bce", epochs=30),
    )


def cifar10() -> Config:
    """The paper's CIFAR-10 network and loss (32x32, N = 600, MSE)."""
    return Config(model=ModelConfig(latent_dim=600, image_size=32), train=TrainConfig(epochs=60))


def celeba() -> Config:
    """The paper's CelebA network and loss (centre crop to 64x64, N = 1500, MSE)."""
    return Config(
        model=ModelConfig(latent_dim=1500, image_size=64, channels=(64, 128, 256, 256)),
        train=TrainConfig(epochs=60),
    )


_PRESETS = {preset.__name__: preset for preset in (demo, mnist, cifar10, celeba)}


def get(name: str) -> Config:
    """The preset called ``name``; UserError with the nearest name when there is none."""
    if name not in _PRESETS:
        raise unknown("preset", name, _PRESETS)
    return _PRESETS[name]()
