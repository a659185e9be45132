"""The model artifact: ``weights.safetensors`` and the resolved configuration in ``config.json``."""

import json
import os
from typing import Any

import safetensors.torch
import torch

from lbae.config import Config, Precision
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder, unfilled
from lbae.core.network.codec import Codec, best_precision
from lbae.errors import UserError
from lbae.io.artifacts.manifest import Manifest, read_manifest
from lbae.io.artifacts.output import Output
from lbae.io.artifacts.tensors import MOST_HEADER_BYTES, parse_tensors
from lbae.io.storage import json_file
from lbae.io.storage.digests import digest
from lbae.io.storage.hub import fetched, pinned
from lbae.io.storage.location import Location, resolve
from lbae.io.storage.stored_file import damaged, stored_bytes

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
    check_is_lbae(f"model {uri}", config)
    return network, config, manifest


def check_is_lbae(what: str, config: Config) -> None:
    """Raise UserError for the configuration of a baseline; ``what`` names the model."""
    if config.model.bottleneck != "bernoulli":
        raise UserError(
            f"{what} is a {config.model.bottleneck} baseline, which has no binary latents; give an LBAE"
        )


def read_network(uri: str) -> tuple[LatentBernoulliAutoencoder, Config, Manifest]:
    """Network, configuration and manifest of a model or baseline; raises UserError if they do not match."""
    uri = pinned(uri)
    manifest, folder = read_manifest(uri, KIND), fetched(uri, [_CONFIG, _WEIGHTS])
    config = parse_config(stored_config(folder), folder / _CONFIG)
    return build_network(stored_weights(folder, config), folder / _WEIGHTS, config), config, manifest


def stored_config(folder: Location) -> bytes:
    """The content of ``config.json`` in a folder; raises UserError as :func:`stored_bytes` does."""
    return stored_bytes(folder / _CONFIG, json_file.MOST_BYTES)


def stored_weights(folder: Location, config: Config) -> bytes:
    """The content of ``weights.safetensors`` in a folder.

    Raises:
        UserError: The file is missing, or larger than that of the network that ``config`` describes.
    """
    network = sum(value.nbytes for value in unfilled(config.model).state_dict().values())
    return stored_bytes(folder / _WEIGHTS, MOST_HEADER_BYTES + network)


def parse_config(data: bytes, location: Location) -> Config:
    """The configuration in the content of a file; raises UserError, which names the file, if it is none."""
    tree = json_file.parse_object(data, location)
    try:
        return Config.from_dict(tree)
    except UserError as error:
        raise damaged(location, str(error)) from error


def build_network(data: bytes, location: Location, config: Config) -> LatentBernoulliAutoencoder:
    """A network from ``data``, the content of its file of weights.

    The configuration says which tensors the file must hold; only those of the file ever take memory.

    Raises:
        UserError: The file is damaged, or does not match the configuration.
    """
    network = unfilled(config.model)
    needed = {
        name: (str(value.dtype).removeprefix("torch."), tuple(value.shape))
        for name, value in network.state_dict().items()
    }
    found = parse_tensors(data, location, needed)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in found.items()}, assign=True)
    return network


def load_model(
    uri: str | os.PathLike[str], precision: Precision | None = None, device: torch.device | str | None = None
) -> Codec:
    """Load a model as a codec.

    By default it runs on a GPU if there is one, and at the device's best precision.
    """
    network, _, _ = load_network(os.fspath(uri))
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Codec(network, precision or best_precision(chosen), chosen)


def check_model(what: str, found: str, model: Manifest) -> None:
    """Raise UserError unless ``found`` is the fingerprint of ``model``; ``what`` names the artifact."""
    if found != model.fingerprint:
        raise UserError(
            f"{what} was made with model {found}, not with model {model.fingerprint}; give the model it was"
            f" made with"
        )
