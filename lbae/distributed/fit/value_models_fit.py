"""Fit a model of the latents of each value of the attribute columns, and measure edits: tasks per column."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import ray
from jaxtyping import Bool, Float16, Float32

from lbae.core.latents.adjusted_means import adjusted_means
from lbae.core.latents.edited_moments import ROWS, Errors, edited_moments
from lbae.core.latents.packing import unpack
from lbae.core.latents.value_fit import fit_temperature, fit_values
from lbae.core.latents.value_models import ValueModels
from lbae.core.moments.moment_accumulator import sum_packed
from lbae.core.moments.moment_sums import MomentSums
from lbae.core.prior.gaussian import bit_means
from lbae.io.artifacts.attribute_columns import Attribute, indicators
from lbae.io.artifacts.latent_table import packed_latents

VALUE_ROWS = 200_000  # that the models of attribute values are fitted to, at most
# Of each value, but at most so many of a column, to see how well models tell values apart that they were not
# fitted to. The models in the bundle are fitted to all rows.
_HELD_SHARE, _HELD_ROWS = 0.2, 2_000
_OWN_CLASSES = 12  # the values of a column with more classes share one correlation
_CORRELATION_BYTES = 200 * 2**20  # of all columns; beyond that, each column has only one

Value = tuple[int, int, int]  # attribute, sign, rows


class Column(NamedTuple):
    """The models of one column: of each value the shifts, their packed correlations, and how to judge."""

    values: list[Value]
    shifts: Float32[np.ndarray, "C N"]
    correlations: Float16[np.ndarray, "G P"]
    temperature: float = 1.0
    by_pooled: bool = False


def fit_value_models(
    rows: pa.Table, attributes: Sequence[Attribute], sums: MomentSums
) -> tuple[ValueModels, dict[str, Errors]]:
    """The models of all values of the attributes' columns, fitted to rows in a random order.

    Also the errors of the moments of edited latents, by value such as ``label=7`` or ``no beard``. A column
    in which only one value occurs gets no model. Edits to the classes of a column with more than twelve are
    not measured. ``sums`` are those of all rows of the table, for the adjusted means.
    """
    bits = sums.latent_dim
    if not attributes:
        return _joined([], np.empty((1, bits * (bits - 1) // 2), np.float16)), {}
    columns: dict[str, dict[int, Attribute]] = defaultdict(dict)
    for position, attribute in enumerate(attributes):
        columns[attribute.column][position] = attribute
    values = sum(1 if attribute.no is None else 2 for attribute in attributes)
    fits = (values + 1) * bits * (bits - 1) <= _CORRELATION_BYTES
    shared_rows = ray.put(rows)
    own = {name: fits and len(group) <= _OWN_CLASSES for name, group in columns.items()}
    pooled = _pooled.remote(shared_rows, bits)
    fitted = [
        _fit_column.remote(shared_rows, pooled, bits, group, own[name]) for name, group in columns.items()
    ]
    models = _joined(ray.get(fitted), ray.get(pooled))
    models = replace(models, adjusted=adjusted_means(models, sums))
    shared = ray.put(models)
    few = [group for group in columns.values() if len(group) <= _OWN_CLASSES]
    measured = ray.get([_measure_edits.remote(shared_rows, shared, group) for group in few])
    return models, {name: errors for column in measured for name, errors in column.items()}


@ray.remote
def _pooled(rows: pa.Table, bits: int) -> Float16[np.ndarray, "1 P"]:
    """The correlation of all rows' sides, packed."""
    return fit_values([sum_packed(packed_latents(rows), bits)], own=False)[1]


@ray.remote
def _fit_column(
    rows: pa.Table,
    pooled: Float16[np.ndarray, "1 P"],
    bits: int,
    attributes: dict[int, Attribute],
    own: bool,
) -> Column:
    packed, kept = packed_latents(rows), _rows_of_values(rows, attributes)
    if len(kept) < 2:
        return Column([], np.empty((0, bits), np.float32), np.empty((0, pooled.shape[1]), np.float16))
    masks = np.array(list(kept.values()))
    values = [(*value, int(mask.sum())) for value, mask in kept.items()]
    column = Column(values, *fit_values([sum_packed(packed[mask], bits) for mask in masks], own))
    held = _held_out(masks)
    if not held.any():
        return column._replace(by_pooled=own)
    rest = Column(values, *fit_values([sum_packed(packed[mask & ~held], bits) for mask in masks], own))
    latents, has = unpack(packed[held], bits), masks[:, held].argmax(axis=0)
    found = {}
    for by_pooled in (False, True) if own else (False,):
        judge = _joined([rest._replace(by_pooled=by_pooled)], pooled)
        found[by_pooled] = fit_temperature(judge.log_likelihoods(range(len(values)), latents), has)
    by_pooled = min(found, key=lambda judge: found[judge][1])
    return column._replace(temperature=found[by_pooled][0], by_pooled=by_pooled)


def _held_out(masks: Bool[np.ndarray, "C K"]) -> Bool[np.ndarray, "K"]:
    """The first rows of each value, which come in a random order; none of a value of few rows."""
    share = min(_HELD_SHARE, _HELD_ROWS / masks.any(axis=0).sum())
    held = np.zeros(masks.shape[1], dtype=bool)
    for mask in masks:
        held[np.flatnonzero(mask)[: int(share * mask.sum())]] = True
    return held


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


def _joined(found: Sequence[Column], pooled: Float16[np.ndarray, "1 P"]) -> ValueModels:
    """The models of all columns, their means not adjusted; the pooled correlation last, if it judges any."""
    values: list[Value] = []
    columns, shared, by_pooled, temperatures, groups = [], [], [], [], 0
    for number, column in enumerate(found):
        count = len(column.values)
        values += column.values
        columns += [number] * count
        temperatures += [column.temperature] * count
        by_pooled += [column.by_pooled] * count
        shared += [groups + min(i, len(column.correlations) - 1) for i in range(count)]
        groups += len(column.correlations)
    attributes, signs, rows = np.array(values, dtype=np.int64).reshape(-1, 3).T
    bits = round((1 + math.sqrt(1 + 8 * pooled.shape[1])) / 2)
    correlations = [column.correlations for column in found]
    shifts = np.concatenate([np.empty((0, bits), np.float32), *(column.shifts for column in found)])
    return ValueModels(
        attributes=attributes,
        signs=signs.astype(np.int8),
        columns=np.array(columns, dtype=np.int64),
        rows=rows,
        shifts=shifts,
        shared=np.array(shared, dtype=np.int64),
        judged=np.where(np.array(by_pooled, dtype=bool), groups, np.array(shared, dtype=np.int64)),
        correlations=np.concatenate([*correlations, pooled if any(by_pooled) else pooled[:0]]),
        temperatures=np.array(temperatures, dtype=np.float32),
        adjusted=bit_means(shifts).astype(np.float32),
    )
