"""Fit a model of the latents of each value of the attribute columns, and measure edits: tasks per column."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from jaxtyping import Bool

from lbae.core.latents.edited_moments import ROWS, Errors, edited_moments
from lbae.core.latents.packing import unpack
from lbae.core.latents.value_fit import fit_temperature, fit_values
from lbae.core.latents.value_models import ValueModels
from lbae.core.moments.moment_accumulator import sum_packed
from lbae.io.artifacts.attribute_columns import Attribute, indicators
from lbae.io.artifacts.latent_table import packed_latents

VALUE_ROWS = 200_000  # that the models of attribute values are fitted to, at most
_TEMPERATURE_ROWS = 2_000  # one number per column is fitted to them
_OWN_CLASSES = 12  # the values of a column with more classes share one correlation
_CORRELATION_BYTES = 200 * 2**20  # of all columns; beyond that, each column has only one

Found = tuple[list[tuple[int, int, int]], np.ndarray, np.ndarray, float]


def fit_value_models(
    rows: pa.Table, bits: int, attributes: Sequence[Attribute]
) -> tuple[ValueModels, dict[str, Errors]]:
    """The models of all values of the attributes' columns, fitted to rows in a random order.

    Also the errors of the moments of edited latents, by value such as ``label=7`` or ``no beard``. A column
    in which only one value occurs gets no model. Edits to the classes of a column with more than twelve are
    not measured.
    """
    if not attributes:
        return _joined([], bits), {}
    columns: dict[str, dict[int, Attribute]] = defaultdict(dict)
    for position, attribute in enumerate(attributes):
        columns[attribute.column][position] = attribute
    values = sum(1 if attribute.no is None else 2 for attribute in attributes)
    fits = values * bits * (bits - 1) <= _CORRELATION_BYTES
    shared_rows = ray.put(rows)
    own = {name: fits and len(group) <= _OWN_CLASSES for name, group in columns.items()}
    fitted = [_fit_column.remote(shared_rows, bits, group, own[name]) for name, group in columns.items()]
    models = _joined(ray.get(fitted), bits)
    shared = ray.put(models)
    few = [group for group in columns.values() if len(group) <= _OWN_CLASSES]
    measured = ray.get([_measure_edits.remote(shared_rows, shared, group) for group in few])
    return models, {name: errors for column in measured for name, errors in column.items()}


@ray.remote
def _fit_column(rows: pa.Table, bits: int, attributes: dict[int, Attribute], own: bool) -> Found:
    """A column's values as (attribute, sign, rows), their shifts, packed correlations and temperature."""
    packed, kept = packed_latents(rows), _rows_of_values(rows, attributes)
    if len(kept) < 2:
        return [], np.empty((0, bits), np.float32), np.empty((0, bits * (bits - 1) // 2), np.float16), 1.0
    shifts, correlations = fit_values([sum_packed(packed[mask], bits) for mask in kept.values()], own)
    values = [(*value, int(mask.sum())) for value, mask in kept.items()]
    known = np.array(list(kept.values()))
    scored = np.flatnonzero(known.any(axis=0))[:_TEMPERATURE_ROWS]  # a random order, so random rows
    models = _joined([(values, shifts, correlations, 1.0)], bits)
    likely = models.log_likelihoods(range(len(values)), unpack(packed[scored], bits))
    return values, shifts, correlations, fit_temperature(likely, known[:, scored].argmax(axis=0))


def _rows_of_values(
    rows: pa.Table, attributes: dict[int, Attribute]
) -> dict[tuple[int, int], Bool[np.ndarray, "K"]]:
    """The rows that have each value of a column, as (attribute, sign); without values of no row."""
    masks = {}
    present, absent = indicators(rows, tuple(attributes.values()))
    for j, (position, attribute) in enumerate(attributes.items()):
        masks[position, 1] = present[:, j]
        if attribute.no is not None or len(attributes) == 1:  # one class only: unset is its other value
            masks[position, -1] = absent[:, j]
    return {value: mask for value, mask in masks.items() if mask.any()}


@ray.remote
def _measure_edits(
    rows: pa.Table, models: ValueModels, attributes: dict[int, Attribute]
) -> dict[str, Errors]:
    """The errors of the moments of latents edited to each value of a column that has models."""
    packed, masks, found = packed_latents(rows), _rows_of_values(rows, attributes), {}
    bits = models.shifts.shape[1]
    for value in models.of_column(next(iter(attributes))):
        position, sign = int(models.attributes[value]), int(models.signs[value])
        has = masks[position, sign]
        known = np.any([mask for of, mask in masks.items() if of != (position, sign)], axis=0)
        # Rows come in a random order.
        others, members = (unpack(packed[np.flatnonzero(some)[:ROWS]], bits) for some in (known, has))
        name = attributes[position].name
        found[name if sign > 0 else f"no {name}"] = edited_moments(
            models, int(value), others, members, sum_packed(packed[has], bits)
        )
    return found


def _joined(found: list[Found], bits: int) -> ValueModels:
    values: list[Any] = []
    columns, shared, groups = [], [], 0
    temperatures: list[float] = []
    for column, (some, _, correlations, temperature) in enumerate(found):
        values += some
        columns += [column] * len(some)
        temperatures += [temperature] * len(some)
        shared += [groups + min(i, len(correlations) - 1) for i in range(len(some))]
        groups += len(correlations)
    attributes, signs, rows = np.array(values, dtype=np.int64).reshape(-1, 3).T
    return ValueModels(
        attributes=attributes,
        signs=signs.astype(np.int8),
        columns=np.array(columns, dtype=np.int64),
        rows=rows,
        shifts=np.concatenate([np.empty((0, bits), np.float32), *(shifts for _, shifts, *_ in found)]),
        shared=np.array(shared, dtype=np.int64),
        correlations=np.concatenate(
            [np.empty((0, bits * (bits - 1) // 2), np.float16), *(packed for _, _, packed, _ in found)]
        ),
        temperatures=np.array(temperatures, dtype=np.float32),
    )
