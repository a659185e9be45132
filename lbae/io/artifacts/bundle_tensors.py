"""The tensors of a bundle beside its weights: prior, pooled factor, attributes, value models, examples.

Factors are lower triangular and stored as packed rows of M (M + 1) / 2 numbers:

- ``prior.safetensors``: float32 factors (C, M (M + 1) / 2) and float64 weights (C,)
- ``pooled.safetensors``: the float64 factor for hyperplane normals, over boundary, bits and attributes
- ``attributes.safetensors``: the attribute statistics
- ``values.safetensors``: models of the attributes' values
- ``examples.safetensors``: example images, uint8 (E, H, W, C)

Every ``parse_`` function raises UserError, which names the file, for a file that is damaged or does not fit a
model of ``bits`` bits and ``attributes`` attributes.
"""

import dataclasses
from typing import Any

import numpy as np
import safetensors.numpy

from lbae.core.latents.value_models import ValueModels
from lbae.core.moments.attribute_statistics import AttributeStatistics
from lbae.core.prior.gaussian import bit_means
from lbae.core.prior.prior import Prior
from lbae.io.artifacts.tensors import parse_tensors
from lbae.io.storage.location import Location
from lbae.io.storage.stored_file import damaged

# NumPy's tolerance for probabilities that are drawn by.
_ROUNDING = float(np.sqrt(np.finfo(np.float64).eps))
_MOST_SHIFT = 40.0  # beyond it, the probability of a bit's rarer value is below the smallest double


def save_prior(prior: Prior) -> bytes:
    """The content of ``prior.safetensors``."""
    return safetensors.numpy.save({"weights": prior.weights, "factors": _packed(prior.factors)})


def save_pooled(factor: np.ndarray) -> bytes:
    """The content of ``pooled.safetensors``."""
    return safetensors.numpy.save({"factor": _packed(factor)})


def save_arrays(arrays: AttributeStatistics | ValueModels) -> bytes:
    """The arrays of a dataclass: the content of ``attributes.safetensors`` or ``values.safetensors``."""
    found = {field.name: getattr(arrays, field.name) for field in dataclasses.fields(arrays)}
    # safetensors ignores strides: a view that is not contiguous, such as a column, would be saved wrong.
    return safetensors.numpy.save(
        {name: np.ascontiguousarray(of) for name, of in found.items() if name not in ("names", "trusted")}
    )


def save_examples(images: np.ndarray) -> bytes:
    """The content of ``examples.safetensors``."""
    return safetensors.numpy.save({"images": np.ascontiguousarray(images)})


def parse_prior(data: bytes, location: Location, bits: int, attributes: int) -> dict[str, np.ndarray]:
    """The ``weights`` of the components, and their ``factors`` (C, M, M).

    M is 1 + A + N, or 1 + N in older bundles and for samplers that ignore attributes.
    """
    found = parse_tensors(
        data, location, {"weights": ("float64", ("C",)), "factors": ("float32", ("C", "M(M+1)/2"))}
    )
    weights = found["weights"]
    if not len(weights) or weights.min() < 0 or abs(weights.sum() - 1) > _ROUNDING:
        raise damaged(location, "the weights of its components are no probabilities that sum to 1")
    return {"weights": weights, "factors": _unpacked(found["factors"], location, bits, attributes)}


def parse_pooled(data: bytes, location: Location, bits: int, attributes: int) -> np.ndarray:
    """The factor (M, M); M is 1 + N, or 1 + N + A in older bundles."""
    found = parse_tensors(data, location, {"factor": ("float64", ("M(M+1)/2",))})
    factor = _unpacked(found["factor"], location, bits, attributes)
    if np.diagonal(factor).min() <= 0 or np.abs(np.square(factor).sum(axis=1) - 1).max() > _ROUNDING:
        raise damaged(location, "the rows of its factor are no unit vectors with a positive diagonal")
    return factor


def parse_statistics(
    data: bytes, location: Location, names: tuple[str, ...], bits: int
) -> AttributeStatistics:
    """The statistics of the attributes ``names`` over ``bits`` bits."""
    size = len(names)
    counts = dict.fromkeys(("set_count", "unset_count"), ("float64", (size,)))
    means = ("mean_if_set", "mean_if_unset", "lift", "lift_error")
    rows = dict.fromkeys(means, ("float64", (size, bits)))
    arrays: dict[str, Any] = parse_tensors(data, location, {**counts, **rows})
    return AttributeStatistics(names=names, **arrays)


def parse_values(data: bytes, location: Location, bits: int, attributes: int) -> ValueModels:
    """The models of the attributes' values.

    The first ones lacked temperatures, which are then 1, ``judged``, which is then ``shared``, and adjusted
    means, which are then the values' own.
    """
    ordinals = dict.fromkeys(("attributes", "columns", "rows", "shared", "judged"), ("int64", ("V",)))
    needed = {
        **ordinals,
        "signs": ("int8", ("V",)),
        "shifts": ("float32", ("V", bits)),
        "correlations": ("float16", ("G", bits * (bits - 1) // 2)),
        "temperatures": ("float32", ("V",)),
        "adjusted": ("float32", ("V", bits)),
    }
    found = parse_tensors(data, location, needed, optional=["temperatures", "judged", "adjusted"])
    later = {
        "temperatures": np.ones(len(found["rows"]), dtype=np.float32),
        "judged": found["shared"],
        "adjusted": bit_means(found["shifts"]).astype(np.float32),
    }
    models = ValueModels(**{**later, **found})
    ranges = {
        "attributes": (models.attributes, 0, attributes - 1),
        "shared": (models.shared, 0, len(models.correlations) - 1),
        "judged": (models.judged, 0, len(models.correlations) - 1),
        "signs": (np.abs(models.signs), 1, 1),
        "rows": (models.rows, 1, np.inf),
        "shifts": (models.shifts, -_MOST_SHIFT, _MOST_SHIFT),
        "correlations": (models.correlations, -1, 1),
        "temperatures": (models.temperatures, np.finfo(np.float32).tiny, np.inf),
        "adjusted": (models.adjusted, np.finfo(np.float32).min, np.finfo(np.float32).max),
    }
    for name, (values, least, most) in ranges.items():
        if values.size and not (values.min() >= least and values.max() <= most):
            raise damaged(
                location, f"{name} go from {values.min()} to {values.max()}; allowed: {least} to {most}"
            )
    if set(models.attributes.tolist()) - set(models.attributes[models.signs > 0].tolist()):
        raise damaged(location, "an attribute has a model of its absence and none of its presence")
    if 1 in np.unique(models.columns, return_counts=True)[1]:
        raise damaged(location, "a column has a single value; allowed: two or more")
    return models


def parse_examples(data: bytes, location: Location, shape: tuple[int, int, int]) -> np.ndarray:
    """The example images, uint8 (E, H, W, C) of the model's ``shape``."""
    return parse_tensors(data, location, {"images": ("uint8", ("E", *shape))})["images"]


def _packed(factors: np.ndarray) -> np.ndarray:
    """The lower triangles of matrices (..., M, M), as rows of M (M + 1) / 2 numbers."""
    return np.ascontiguousarray(factors[..., *np.tril_indices(factors.shape[-1])])


def _unpacked(packed: np.ndarray, location: Location, bits: int, attributes: int) -> np.ndarray:
    """Inverse of :func:`_packed` for matrices over the boundary, the bits and perhaps the attributes."""
    sides = {side * (side + 1) // 2: side for side in (1 + bits, 1 + bits + attributes)}
    if packed.shape[-1] not in sides:
        allowed = f"{' or '.join(map(str, sides))}, for {bits} bits and {attributes} attributes"
        raise damaged(location, f"a factor has {packed.shape[-1]} numbers; allowed: {allowed}")
    side, start = sides[packed.shape[-1]], 0
    factors = np.zeros((*packed.shape[:-1], side, side), dtype=packed.dtype)
    for row in range(side):  # the indices of all entries at once would take four times the memory of a factor
        factors[..., row, : row + 1] = packed[..., start : start + row + 1]
        start += row + 1
    return factors
