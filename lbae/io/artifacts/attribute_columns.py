"""Label and attribute columns of a table as boolean attributes.

bool column: one attribute, null is unknown. Integer column of 0, 1 and -1 alone: one attribute, set when 1;
where -1 occurs in the column, -1 is unset and 0 unknown, else 0 is unset. Any other integer or string column:
one attribute a class, named ``column=value``, null is unknown; -1 among classes is refused, because it is
nearly always meant as unknown.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool

from lbae.errors import UserError, unknown

MAX_CLASSES = 200
_NAMING = ("key", "path", "source_key", "source_path", "image_path")  # columns that name an image
Value = bool | int | str


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """How one boolean attribute is read off a column: set where it equals ``yes``, unset where it is one of
    ``no``.

    ``no`` is None for a class of a column: every other known value is unset.
    """

    name: str
    column: str
    yes: Value
    no: Value | None = None


def candidate_columns(schema: pa.Schema) -> list[str]:
    """Columns that can be attributes by their type."""
    kinds = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_string, pa.types.is_large_string)
    return [f.name for f in schema if f.name not in _NAMING and any(kind(f.type) for kind in kinds)]


def column_values(table: pa.Table, columns: Iterable[str]) -> dict[str, set[Value]]:
    """Distinct known values of each column, no more than one over the class limit."""
    return {name: set(pc.unique(table[name]).drop_null()[: MAX_CLASSES + 1].to_pylist()) for name in columns}


def merge_values(seen: Iterable[set[Value]]) -> set[Value]:
    """The distinct values of a column from those of its parts, no more than one over the class limit."""
    merged: set[Value] = set()
    for values in seen:
        merged.update(itertools.islice(values - merged, max(0, MAX_CLASSES + 1 - len(merged))))
    return merged


def attributes_of(column: str, values: set[Value]) -> list[Attribute]:
    """The attributes of one column with these values; none when it has too many classes."""
    if values <= {True, False} and any(isinstance(v, bool) for v in values):
        return [Attribute(name=column, column=column, yes=True, no=False)]
    if values == {0, 1} or (values <= {-1, 0, 1} and -1 in values):
        return [Attribute(name=column, column=column, yes=1, no=-1 if -1 in values else 0)]
    if len(values) > MAX_CLASSES:
        return []
    if -1 in values:
        others = ", ".join(map(str, sorted(values - {-1, 0, 1})[:5]))
        raise UserError(
            f"column {column!r} holds -1 and {others}: with -1 (unset) only 0 (unknown) and 1 (set) are"
            f" allowed, and an"
            " unknown class is null; mend the column, or leave it out of --attributes"
        )
    return [Attribute(name=f"{column}={value}", column=column, yes=value) for value in sorted(values)]


def select_attributes(wanted: Sequence[str], values: dict[str, set[Value]]) -> tuple[Attribute, ...]:
    """Return the attributes of ``("all",)``, of ``("none",)``, or of columns and attribute names."""
    if tuple(wanted) == ("none",):
        return ()
    found = {
        attribute.name: attribute
        for column, seen in values.items()
        for attribute in attributes_of(column, seen)
    }
    if tuple(wanted) == ("all",):
        return tuple(found.values())
    chosen: dict[str, Attribute] = {}
    for name in wanted:
        matches = {a.name: a for a in found.values() if name in (a.name, a.column)}
        if not matches:
            if len(values.get(name, ())) > MAX_CLASSES:
                raise UserError(
                    f"column {name!r} has more than {MAX_CLASSES} distinct values; it cannot be used as"
                    f" attributes"
                )
            raise unknown("attribute", name, {*found, *values})
        chosen |= matches
    return tuple(chosen.values())


def can_hold(kind: pa.DataType, attribute: Attribute) -> bool:
    """Whether a column of this type can hold what the attribute is read by."""
    try:
        return all(
            pa.scalar(value, kind).is_valid for value in (attribute.yes, attribute.no) if value is not None
        )
    except pa.ArrowException:
        return False


def indicators(
    table: pa.Table, attributes: tuple[Attribute, ...]
) -> tuple[Bool[np.ndarray, "K A"], Bool[np.ndarray, "K A"]]:
    """For every row and attribute: whether it is set, and whether it is known to be unset."""
    present = np.zeros((len(table), len(attributes)), dtype=bool)
    absent = np.zeros_like(present)
    for j, attribute in enumerate(attributes):
        column = table[attribute.column]
        equal = pc.equal(column, pa.scalar(attribute.yes, column.type))
        present[:, j] = pc.fill_null(equal, False).to_numpy()
        other = (
            pc.invert(equal)
            if attribute.no is None
            else pc.equal(column, pa.scalar(attribute.no, column.type))
        )
        absent[:, j] = pc.fill_null(other, False).to_numpy()
    return present, absent
