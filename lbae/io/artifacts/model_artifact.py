"""The model artifact: ``weights.safetensors`` and the resolved configuration in ``config.json``."""

import json
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from lbae.config import Config, Precision
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.network.codec import Codec, best_precision
from lbae.errors import LbaeError, UserError
from lbae.io.artifacts.manifest import Manifest, read_manifest
from lbae.io.artifacts.output import Output
from lbae.io.storage.digests import digest
from lbae.io.storage.location import resolve

KIND = "model"
_WEIGHTS, _CONFIG = "weights.safetensors", "config.json"


def save_model(
    output: Output, network: LatentBernoulliAutoencoder, config: Config, result: dict[str, Any]
) -> dict[str, Any]:
    """Publish trained weights with their configuration; ``result`` is added to the job's result."""
    weights = safetensors.torch.save(
        {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    )
    text = json.dumps(config.to_dict(), indent=2, sort_keys=True).encode()
    (resolve(output.uri) / _WEIGHTS).write_bytes(weights)
    (resolve(output.uri) / _CONFIG).write_bytes(text)
    fingerprint = digest(weights, json.dumps(config.to_dict()["model"], sort_keys=True).encode())
    return output.publish(
        fingerprint=fingerprint, rows=result["images"], files=(_WEIGHTS, _CONFIG), result=result
    )


def load_network(uri: str) -> tuple[LatentBernoulliAutoencoder, Config, Manifest]:
    """Like :func:`read_network`, but raises UserError for a baseline, which has no binary latents."""
    network, config, manifest = read_network(uri)
    if config.model.bottleneck != "bernoulli":
        raise UserError(
            f"model {uri} is a {config.model.bottleneck} baseline, which has no binary latents; give an LBAE"
        )
    return network, config, manifest


def read_network(uri: str) -> tuple[LatentBernoulliAutoencoder, Config, Manifest]:
    """Network, configuration and manifest of a model or baseline; raises LbaeError if they do not match."""
    manifest = read_manifest(uri, KIND)
    config = Config.from_dict(json.loads((resolve(uri) / _CONFIG).read_bytes()))
    return build_network(uri, (resolve(uri) / _WEIGHTS).read_bytes(), config), config, manifest


def build_network(uri: str, weights: bytes, config: Config) -> LatentBernoulliAutoencoder:
    """A network from the bytes of its weights; raises LbaeError if they do not match the configuration."""
    network = LatentBernoulliAutoencoder(config.model)
    try:
        network.load_state_dict(safetensors.torch.load(weights))
    except (SafetensorError, RuntimeError) as error:
        raise LbaeError(
            f"the weights of {uri} do not match its configuration: {error}".replace("\n", " ")
        ) from error
    return network


def load_model(
    uri: str, precision: Precision | None = None, device: torch.device | str | None = None
) -> Codec:
    """Load a model as a codec.

    By default it runs on a GPU if there is one, and at the device's best precision.
    """
    network, _, _ = load_network(uri)
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Codec(network, precision or best_precision(chosen), chosen)


def check_model(what: str, found: str, model: Manifest) -> None:
    """Raise UserError unless ``found`` is the fingerprint of ``model``; ``what`` names the artifact."""
    if found != model.fingerprint:
        raise UserError(
            f"{what} was made with model {found}, not with model {model.fingerprint}; give the model it was"
            f" made with"
        )
