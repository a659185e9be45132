"""Export the encoder and decoder of a model as torch.export files."""

import io
from typing import Any

import torch
from torch import Tensor, nn

from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.errors import LbaeError
from lbae.io.artifacts.model_artifact import load_network
from lbae.io.artifacts.output import Output
from lbae.io.storage.digests import digest
from lbae.io.storage.location import resolve
from lbae.jobs.options import Overwrite

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


def export(*, model: str, out: str, overwrite: Overwrite = False) -> dict[str, Any]:
    """Export the encoder and decoder of a model in float32, as encoder.pt2 and decoder.pt2.

    The encoder maps images (K, C, H, W) in [0, 1], padded as the model's config.json says, to latents (K, N)
    of +1 and -1. The decoder maps latents to images. K is any number. Both files are loaded again and
    compared with the network; a difference is an error.

    Args:
        model: URI of the model.
        out: URI of the folder to write.
    """
    network, config, manifest = load_network(model)
    parents = {"model": manifest.fingerprint}
    output = Output(out, KIND, parents=parents, config={}, inputs=[model], overwrite=overwrite)
    if done := output.begin():
        return done
    network.eval()
    size = config.model.image_size
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(_ROWS, config.model.image_channels, size, size, generator=generator)
    with torch.no_grad():
        latents = network.encode(images)
    files = {
        "encoder.pt2": _exported(_Encoder(network).eval(), images, latents),
        "decoder.pt2": _exported(
            _Decoder(network).eval(), latents, torch.sigmoid(network.decode_logits(latents)).detach()
        ),
    }
    for name, data in files.items():
        (resolve(out) / name).write_bytes(data)
    result = {"latent_dim": config.model.latent_dim, "image_size": size, "padding": config.model.padding}
    return output.publish(
        fingerprint=digest(manifest.fingerprint.encode()), rows=0, files=files, result=result
    )


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
