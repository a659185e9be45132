"""The bundle artifact that applications load: model, prior, pooled factor and attribute statistics.

The files beside the model's are those of :mod:`lbae.io.artifacts.bundle_tensors`. ``values.safetensors`` is
missing without attributes and in older versions; ``examples.safetensors`` is optional.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from fsspec.utils import get_protocol

from lbae.config import ModelConfig, Precision
from lbae.core.bundle import Bundle
from lbae.core.latents.normals import Normals
from lbae.core.latents.value_models import ValueModels
from lbae.core.moments.attribute_statistics import AttributeStatistics
from lbae.core.network.codec import Codec
from lbae.core.prior.prior import Prior, Sampler
from lbae.errors import UserError
from lbae.io.artifacts import bundle_tensors
from lbae.io.artifacts.manifest import attribute_names, option, read_manifest
from lbae.io.artifacts.model_artifact import (
    build_network,
    check_is_lbae,
    parse_config,
    stored_config,
    stored_weights,
)
from lbae.io.artifacts.output import Output
from lbae.io.artifacts.tensors import MOST_BYTES
from lbae.io.storage.digests import digest
from lbae.io.storage.hub import fetched, is_pinned, pinned
from lbae.io.storage.location import absolute, readable, resolve
from lbae.io.storage.stored_file import stored_bytes

KIND = "bundle"
_FILES = {
    "weights": "weights.safetensors",
    "config": "config.json",
    "prior": "prior.safetensors",
    "pooled": "pooled.safetensors",
    "attributes": "attributes.safetensors",
}
_LATER = {"values": "values.safetensors", "examples": "examples.safetensors"}  # optional
_MOST_POINTER_BYTES = 2**16


def save_bundle(
    output: Output,
    *,
    model: str,
    prior: Prior,
    pooled_factor: np.ndarray,
    attributes: AttributeStatistics,
    values: ValueModels | None,
    examples: np.ndarray,
    rows: int,
    result: dict[str, Any],
    report: Mapping[str, bytes],
) -> dict[str, Any]:
    """Publish a bundle with the model at the URI ``model``.

    The output's config names the precision and the sampler. ``report`` holds files about the prior for
    people; the fingerprint does not cover them.
    """
    folder = fetched(model, [_FILES["weights"], _FILES["config"]])
    content = {
        "weights": (folder / _FILES["weights"]).read_bytes(),
        "config": (folder / _FILES["config"]).read_bytes(),
        "prior": bundle_tensors.save_prior(prior),
        "pooled": bundle_tensors.save_pooled(pooled_factor),
        "attributes": bundle_tensors.save_arrays(attributes),
    }
    files = {_FILES[name]: data for name, data in content.items()}
    if values is not None and len(values.rows):
        files[_LATER["values"]] = bundle_tensors.save_arrays(values)
    if len(examples):
        files[_LATER["examples"]] = bundle_tensors.save_examples(examples)
    for name, data in {**files, **report}.items():
        (resolve(output.uri) / name).write_bytes(data)
    return output.publish(
        fingerprint=digest(*files.values()),
        rows=rows,
        files=[*files, *report],
        result={"attributes": list(attributes.names), **result},
    )


def load_bundle(uri: str | os.PathLike[str], device: torch.device | str | None = None) -> Bundle:
    """Load a bundle that can sample, interpolate and edit; by default on a GPU if there is one.

    The codec runs at the precision at which the latents were encoded. A bundle of the Hugging Face Hub
    (``hf://models/USER/NAME@REVISION``) is downloaded once per commit into the Hub's cache.

    Raises:
        UserError: There is no finished bundle at ``uri``, its files do not match its manifest, or one of them
            is damaged.
    """
    uri = pinned(os.fspath(uri))
    manifest = read_manifest(uri, KIND)
    files = _FILES | {name: file for name, file in _LATER.items() if file in manifest.files}
    folder = fetched(uri, files.values())
    places = {name: folder / file for name, file in files.items()}
    data = {"weights": b"", "config": stored_config(folder)}
    config = parse_config(data["config"], places["config"])
    data["weights"] = stored_weights(folder, config)
    data |= {name: stored_bytes(place, MOST_BYTES) for name, place in places.items() if name not in data}
    if digest(*data.values()) != manifest.fingerprint:
        raise UserError(
            f"the files of bundle {uri} do not match its manifest (one was changed or damaged); fit it again"
        )
    check_is_lbae(f"the model of bundle {uri}", config)
    bits, names = config.model.latent_dim, attribute_names(uri, manifest)
    prior = bundle_tensors.parse_prior(data["prior"], places["prior"], bits, len(names))
    pooled = bundle_tensors.parse_pooled(data["pooled"], places["pooled"], bits, len(names))
    statistics = bundle_tensors.parse_statistics(data["attributes"], places["attributes"], names, bits)
    values = None
    if "values" in data:
        values = bundle_tensors.parse_values(data["values"], places["values"], bits, len(names))
        statistics = replace(statistics, trusted=tuple(map(values.trusted, range(len(names)))))
    shape = config.model.image_shape
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    network = build_network(data["weights"], places["weights"], config)
    return Bundle(
        fingerprint=manifest.fingerprint,
        codec=Codec(network, option(uri, manifest, "config", "precision", Precision), chosen),
        prior=Prior(
            sampler=option(uri, manifest, "config", "sampler", Sampler, "hyperplane"),
            weights=prior["weights"],
            factors=prior["factors"],
            attributes=names if prior["factors"].shape[1] > 1 + bits else (),
        ),
        normals=Normals(factor=pooled, latent_dim=bits),
        attributes=statistics,
        values=values,
        examples=bundle_tensors.parse_examples(data["examples"], places["examples"], shape)
        if "examples" in data
        else np.empty((0, *shape), dtype=np.uint8),
    )


def read_pointer(uri: str) -> str:
    """The URI of the bundle that a pointer file names; raises UserError unless it is one absolute URI.

    See also :func:`check_pointer`.
    """
    content = readable(uri, "pointer").read_bytes(most=_MOST_POINTER_BYTES)
    found = content.decode("utf-8-sig", errors="replace").strip()
    check_pointer(uri, found)
    if found != absolute(found or uri) or "\n" in found:
        raise UserError(f"pointer {uri} holds {found[:200]!r}; allowed: one absolute path or URI of a bundle")
    return found


def check_pointer(uri: str, bundle: str) -> None:
    """Raise UserError unless a pointer file may name this bundle.

    A bundle has the file's own protocol, not HTTP. Otherwise whoever can write the file could make the
    service fetch from any server, or open a filesystem that runs code. A bundle of the Hugging Face Hub is
    allowed too: the service fetches from no other server than its own ``HF_ENDPOINT``. It is named by a
    commit, because a service polls, and the Hub limits requests. So it also holds no pointers.
    """
    own, named = get_protocol(absolute(uri)), get_protocol(bundle)
    if named == own and own not in ("http", "https", "hf") and "::" not in bundle:
        return
    if "::" in bundle or own == "hf" or not is_pinned(bundle):
        raise UserError(
            f"pointer {uri} names {bundle[:200]!r}, whose protocol is {named}; allowed: the protocol of the"
            f" pointer, which is {own}, unless that is http, https or hf; or a commit of the Hugging Face"
            f" Hub, hf://models/USER/NAME@COMMIT, as `lbae push` prints it"
        )


def move_pointer(uri: str, bundle: str) -> None:
    """Write a bundle's URI into a pointer file; services that follow the file load the bundle."""
    resolve(uri).write_bytes(f"{absolute(bundle)}\n".encode())


def load_config(uri: str) -> ModelConfig:
    """The shape of a bundle's model, loaded without its weights."""
    folder = fetched(uri, [_FILES["config"]])
    return parse_config(stored_config(folder), folder / _FILES["config"]).model


def load_statistics(uri: str) -> AttributeStatistics:
    """The attribute statistics of a bundle, loaded without its model."""
    uri = pinned(uri)
    names, bits = attribute_names(uri, read_manifest(uri, KIND)), load_config(uri).latent_dim
    place = fetched(uri, [_FILES["attributes"]]) / _FILES["attributes"]
    return bundle_tensors.parse_statistics(stored_bytes(place, MOST_BYTES), place, names, bits)
