"""The bundle artifact that applications load: model, prior, pooled factor and attribute statistics.

Factors are lower triangular and stored as packed rows of M (M + 1) / 2 numbers. Files beside the model's:

- ``prior.safetensors``: float32 factors (C, M (M + 1) / 2) and weights (C,)
- ``pooled.safetensors``: the float64 factor for hyperplane normals, over boundary, bits and attributes
- ``attributes.safetensors``: the attribute statistics
- ``values.safetensors``: models of the attributes' values; missing without attributes and in older versions
- ``examples.safetensors``: optional example images, uint8 (E, H, W, C)
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
import torch

from lbae.config import Config, ModelConfig
from lbae.core.bundle import Bundle
from lbae.core.latents.normals import Normals
from lbae.core.latents.value_models import ValueModels
from lbae.core.moments.attribute_statistics import AttributeStatistics
from lbae.core.network.codec import Codec
from lbae.core.prior.prior import Prior
from lbae.errors import LbaeError, UserError
from lbae.io.artifacts.manifest import Manifest, read_manifest
from lbae.io.artifacts.model_artifact import build_network
from lbae.io.artifacts.output import Output
from lbae.io.storage.digests import digest
from lbae.io.storage.location import absolute, readable, resolve

KIND = "bundle"
_FILES = {
    "weights": "weights.safetensors",
    "config": "config.json",
    "prior": "prior.safetensors",
    "pooled": "pooled.safetensors",
    "attributes": "attributes.safetensors",
}
_LATER = {"values": "values.safetensors", "examples": "examples.safetensors"}  # optional


def pack_triangles(factors: np.ndarray) -> np.ndarray:
    """Pack lower triangles (..., M, M) into rows of M (M + 1) / 2 numbers."""
    return np.ascontiguousarray(factors[..., *np.tril_indices(factors.shape[-1])])


def unpack_triangles(packed: np.ndarray) -> np.ndarray:
    """Inverse of :func:`pack_triangles`; raises LbaeError if the rows are not triangles of finite numbers."""
    side = int((np.sqrt(8 * packed.shape[-1] + 1) - 1) / 2)
    if side * (side + 1) // 2 != packed.shape[-1] or not np.isfinite(packed).all():
        raise LbaeError(
            "a factor in the bundle is damaged (not a triangle of finite numbers); fit the bundle again"
        )
    factors = np.zeros((*packed.shape[:-1], side, side), dtype=packed.dtype)
    factors[..., *np.tril_indices(side)] = packed
    return factors


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
    content = {
        "weights": (resolve(model) / _FILES["weights"]).read_bytes(),
        "config": (resolve(model) / _FILES["config"]).read_bytes(),
        "prior": safetensors.numpy.save({"weights": prior.weights, "factors": pack_triangles(prior.factors)}),
        "pooled": safetensors.numpy.save({"factor": pack_triangles(pooled_factor)}),
        "attributes": _saved(attributes),
    }
    files = {_FILES[name]: data for name, data in content.items()}
    if values is not None and len(values.rows):
        files[_LATER["values"]] = _saved(values)
    if len(examples):
        files[_LATER["examples"]] = safetensors.numpy.save({"images": np.ascontiguousarray(examples)})
    for name, data in {**files, **report}.items():
        (resolve(output.uri) / name).write_bytes(data)
    return output.publish(
        fingerprint=digest(*files.values()),
        rows=rows,
        files=[*files, *report],
        result={"attributes": list(attributes.names), **result},
    )


def load_bundle(uri: str, device: torch.device | str | None = None) -> Bundle:
    """Load a bundle that can sample, interpolate and edit; by default on a GPU if there is one.

    The codec runs at the precision at which the latents were encoded.

    Raises:
        UserError: There is no finished bundle at ``uri``, or its files do not match its manifest.
        LbaeError: A factor is damaged, or the weights do not match the configuration.
    """
    manifest = read_manifest(uri, KIND)
    names = _FILES | {name: file for name, file in _LATER.items() if file in manifest.files}
    data = {name: (resolve(uri) / file).read_bytes() for name, file in names.items()}
    if digest(*data.values()) != manifest.fingerprint:
        raise UserError(
            f"the files of bundle {uri} do not match its manifest (one was changed or damaged); fit it again"
        )
    config = Config.from_dict(json.loads(data["config"]))
    statistics = _statistics(manifest, data["attributes"])
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    prior = safetensors.numpy.load(data["prior"])
    factors = unpack_triangles(prior["factors"])
    pooled = safetensors.numpy.load(data["pooled"])
    return Bundle(
        fingerprint=manifest.fingerprint,
        codec=Codec(build_network(uri, data["weights"], config), manifest.config["precision"], chosen),
        prior=Prior(
            sampler=manifest.config.get("sampler", "hyperplane"),
            weights=prior["weights"],
            factors=factors,
            attributes=statistics.names if factors.shape[1] > 1 + config.model.latent_dim else (),
        ),
        normals=Normals(factor=unpack_triangles(pooled["factor"]), latent_dim=config.model.latent_dim),
        attributes=statistics,
        values=_values(data["values"]) if "values" in data else None,
        examples=safetensors.numpy.load(data["examples"])["images"]
        if "examples" in data
        else _no_images(config),
    )


def _saved(arrays: AttributeStatistics | ValueModels) -> bytes:
    """The arrays of a dataclass in the safetensors format."""
    found = {field.name: getattr(arrays, field.name) for field in dataclasses.fields(arrays)}
    # safetensors ignores strides: a view that is not contiguous, such as a column, would be saved wrong.
    return safetensors.numpy.save(
        {name: np.ascontiguousarray(of) for name, of in found.items() if name != "names"}
    )


def _no_images(config: Config) -> np.ndarray:
    return np.empty((0, *config.model.image_shape), dtype=np.uint8)


def read_pointer(uri: str) -> str:
    """The URI of the bundle that a pointer file names; raises UserError unless it is one absolute URI."""
    found = readable(uri, "pointer").read_bytes().decode("utf-8-sig", errors="replace").strip()
    if found != absolute(found or uri) or "\n" in found:
        raise UserError(f"pointer {uri} holds {found[:200]!r}; allowed: one absolute path or URI of a bundle")
    return found


def move_pointer(uri: str, bundle: str) -> None:
    """Write a bundle's URI into a pointer file; services that follow the file load the bundle."""
    resolve(uri).write_bytes(f"{absolute(bundle)}\n".encode())


def load_config(uri: str) -> ModelConfig:
    """The shape of a bundle's model, loaded without its weights."""
    return Config.from_dict(json.loads((resolve(uri) / _FILES["config"]).read_bytes())).model


def load_statistics(uri: str) -> AttributeStatistics:
    """The attribute statistics of a bundle, loaded without its model."""
    return _statistics(read_manifest(uri, KIND), (resolve(uri) / _FILES["attributes"]).read_bytes())


def _values(data: bytes) -> ValueModels:
    arrays = safetensors.numpy.load(data)
    untempered = np.ones(len(arrays["rows"]), dtype=np.float32)  # the first bundles with models lack them
    return ValueModels(**{"temperatures": untempered, **arrays})


def _statistics(manifest: Manifest, data: bytes) -> AttributeStatistics:
    return AttributeStatistics(names=tuple(manifest.result["attributes"]), **safetensors.numpy.load(data))
