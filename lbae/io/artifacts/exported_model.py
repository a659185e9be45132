"""The encoder and decoder of a model as torch.export files, which run without this package."""

import io
from typing import Any

import torch
from torch import Tensor, nn

from lbae.config import ModelConfig
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.errors import LbaeError
from lbae.io.artifacts.manifest import Manifest
from lbae.io.artifacts.output import Output
from lbae.io.storage.digests import digest
from lbae.io.storage.location import resolve

KIND = "exported model"
_ROWS = 3


class _Encoder(nn.Module):
    def __init__(self, network: LatentBernoulliAutoencoder) -> None:
        super().__init__()
        self.layers = network.encoder

    def forward(self, images: Tensor) -> Tensor:
        return torch.where(self.layers(images) >= 0, 1.0, -1.0)


class _Decoder(nn.Module):
    def __init__(self, network: LatentBernoulliAutoencoder) -> None:
        super().__init__()
        self.layers = network.decoder

    def forward(self, latents: Tensor) -> Tensor:
        return torch.sigmoid(self.layers(latents))


def export_model(
    network: LatentBernoulliAutoencoder, config: ModelConfig, model: Manifest, output: Output
) -> dict[str, Any]:
    """Write and publish ``encoder.pt2`` and ``decoder.pt2``; the folder of ``output`` has begun.

    Both files are loaded again and compared with the network; LbaeError if they differ.
    """
    network.eval()
    size = config.image_size
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(_ROWS, config.image_channels, size, size, generator=generator)
    with torch.no_grad():
        latents = network.encode(images)
    files = {
        "encoder.pt2": _exported(_Encoder(network).eval(), images, latents),
        "decoder.pt2": _exported(
            _Decoder(network).eval(), latents, torch.sigmoid(network.decode_logits(latents)).detach()
        ),
    }
    for name, data in files.items():
        (resolve(output.uri) / name).write_bytes(data)
    result = {"latent_dim": config.latent_dim, "image_size": size, "padding": config.padding}
    return output.publish(fingerprint=digest(model.fingerprint.encode()), rows=0, files=files, result=result)


def _exported(module: nn.Module, example: Tensor, expected: Tensor) -> bytes:
    program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    found = torch.export.load(buffer).module()(example)
    if not torch.allclose(found, expected, atol=1e-5):
        raise LbaeError(
            f"the exported {type(module).__name__.lower()} differs from the network by"
            f" {(found - expected).abs().max()}"
        )
    return buffer.getvalue()
