"""The LBAE: an encoder, a binary bottleneck and a decoder; the configuration selects the network."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lbae.config import ModelConfig
from lbae.core.network import paper_network, spatial_network
from lbae.core.network.bottleneck import squeeze


class LatentBernoulliAutoencoder(nn.Module):
    """Deterministic autoencoder with a latent in {-1, +1}^N; images are float32 (K, C, H, W) in [0, 1].

    A ``latent_grid`` above 1 selects :mod:`spatial_network <lbae.core.network.spatial_network>`, 1 selects
    :mod:`paper_network <lbae.core.network.paper_network>`. The latter also serves as a baseline whose codes
    are real numbers, if the configuration names another bottleneck than bits.
    """

    def __init__(self, config: ModelConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        network = spatial_network if config.latent_grid > 1 else paper_network
        self.encoder = network.encoder(config)
        self.decoder = network.decoder(config)
        network.initialise(self.encoder, self.decoder, generator)

    def encode(self, images: Tensor) -> Tensor:
        """Latents (K, N) of +1 and -1, with the straight-through gradient; a baseline's codes are real."""
        return squeeze(self.encoder(images), self.config.bottleneck, self.training)[0]

    def decode_logits(self, latents: Tensor) -> Tensor:
        """Logits (K, C, H, W) of the images: their values before the sigmoid."""
        logits: Tensor = self.decoder(latents)
        return logits

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction logits (K, C, H, W), and the bottleneck's term of the loss, 0 for bits."""
        codes, price = squeeze(self.encoder(images), self.config.bottleneck, self.training)
        return self.decode_logits(codes), price


def unfilled(config: ModelConfig) -> LatentBernoulliAutoencoder:
    """A network whose weights take no memory, to fill with ``load_state_dict(..., assign=True)``."""
    with torch.device("meta"), _WithoutInitialisation():
        return LatentBernoulliAutoencoder(config)


class _WithoutInitialisation(TorchFunctionMode):
    """Leave weights as they are; to draw weights without memory, torch would import 160 MB of modules."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return named["tensor"] if "tensor" in named else args[0]
        return func(*args, **named)
