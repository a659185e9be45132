"""Label and attribute columns of a table as boolean attributes.

- A boolean column is one attribute.
- A column of 0, 1 and -1 alone is one attribute, set where the value is 1. If the column contains -1, then -1
  means unset and 0 unknown; otherwise 0 means unset.
- Any other column of whole numbers or strings gives one attribute per class, named ``column=value``. A -1
  among classes is refused, because it nearly always means unknown.

Null is always unknown. Whole numbers may be stored as integers, floats (NaN is unknown) or decimals. All of
these columns may be dictionary-encoded.
"""

import itertools
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool

from lbae.core.latents.attribute_names import match_name
from lbae.errors import UserError, unknown
from lbae.io.sources.columns import plain_type

MAX_CLASSES = 200
_NAMING = ("key", "path", "source_key", "source_path", "image_path")  # columns that name an image
_OWN = ("latent", "image")  # columns of the latent table itself
_KINDS = (
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_decimal,
    pa.types.is_string,
    pa.types.is_large_string,
)
Value = bool | int | str | float


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """How to read one boolean attribute from a column: set where it equals ``yes``, unset where ``no``.

    ``no`` is None for a class of a column: then every other known value means unset. ValueError if a field
    has another type, as it may when it was read from a file.
    """

    name: str
    column: str
    yes: Value
    no: Value | None = None

    def __post_init__(self) -> None:
        named = isinstance(self.name, str) and isinstance(self.column, str)
        if not (named and isinstance(self.yes, Value) and isinstance(self.no, Value | None)):
            raise ValueError(f"{self!r:.200} is no attribute")


def candidate_columns(schema: pa.Schema) -> list[str]:
    """Columns whose type allows attributes."""
    return [
        field.name
        for field in schema
        if field.name not in (*_NAMING, *_OWN) and any(kind(_value_type(field.type)) for kind in _KINDS)
    ]


def other_columns(schema: pa.Schema) -> dict[str, str]:
    """Columns whose type does not allow attributes, and why; without columns that name an image."""
    known = {*candidate_columns(schema), *_NAMING, *_OWN}
    return {field.name: f"type {field.type}" for field in schema if field.name not in known}


def _value_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values after dictionary decoding; float32 for float16, which pyarrow cannot compare."""
    plain = plain_type(kind.value_type if pa.types.is_dictionary(kind) else kind)
    return pa.float32() if pa.types.is_float16(plain) else plain


def _values(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column's values after dictionary decoding, with NaN as null."""
    values = column.cast(_value_type(column.type))
    if pa.types.is_floating(values.type):
        return pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
    return values


def column_values(table: pa.Table, columns: Iterable[str]) -> dict[str, set[Value]]:
    """Distinct known values of each column, at most one more than the class limit."""
    found = {}
    for name in columns:
        distinct = pc.unique(_values(table[name])).drop_null()[: MAX_CLASSES + 1]
        found[name] = {_whole(value) for value in distinct.to_pylist()}
    return found


def _whole(value: bool | int | str | float | Decimal) -> Value:
    """The value, as an int if it is a whole float or decimal."""
    if isinstance(value, float | Decimal):
        return int(value) if value == value // 1 else float(value)
    return value


def merge_values(seen: Iterable[set[Value]]) -> set[Value]:
    """Merge the distinct values of a column's parts, at most one more than the class limit."""
    merged: set[Value] = set()
    for values in seen:
        merged.update(itertools.islice(values - merged, max(0, MAX_CLASSES + 1 - len(merged))))
    return merged


def why_unusable(values: set[Value]) -> str | None:
    """Why a column with these values gives no attributes; None if it gives some."""
    if not values:
        return "no known value"
    if len(values) > MAX_CLASSES:
        return f"more than {MAX_CLASSES} values"
    if any(isinstance(value, float) for value in values):
        return "fractions"
    return None


def attributes_of(column: str, values: set[Value]) -> list[Attribute]:
    """The attributes of one column with these values; none if :func:`why_unusable` gives a reason.

    Raises:
        UserError: -1 occurs among classes.
    """
    if why_unusable(values):
        return []
    if values <= {True, False} and any(isinstance(v, bool) for v in values):
        return [Attribute(name=column, column=column, yes=True, no=False)]
    if values == {0, 1} or (values <= {-1, 0, 1} and -1 in values):
        return [Attribute(name=column, column=column, yes=1, no=-1 if -1 in values else 0)]
    if -1 in values:
        others = ", ".join(map(str, sorted(values - {-1, 0, 1})[:5]))
        raise UserError(
            f"column {column!r} holds -1 and {others}: beside -1 (unset) only 0 (unknown) and 1 (set) are"
            f" allowed; write unknown classes as null, or leave the column out of --attributes"
        )
    return [Attribute(name=f"{column}={value}", column=column, yes=value) for value in sorted(values)]


def columns_to_scan(wanted: Sequence[str], schema: pa.Schema) -> list[str]:
    """The columns to read in order to find the attributes that ``wanted`` names.

    Raises:
        UserError: A name is neither a column nor ``column=value`` for a column of the table.
    """
    candidates = candidate_columns(schema)
    if tuple(wanted) in (("all",), ("none",)):
        return candidates if tuple(wanted) == ("all",) else []
    known, found = (*candidates, *other_columns(schema)), set()
    for name in wanted:
        columns = {column for column in known if f"{_nfc(name)}=".startswith(f"{_nfc(column)}=")}
        if not columns:
            raise unknown("attribute", name, candidates)
        found |= columns
    return [column for column in candidates if column in found]


def select_attributes(
    wanted: Sequence[str], values: Mapping[str, set[Value]], others: Mapping[str, str]
) -> tuple[Attribute, ...]:
    """The attributes that ``wanted`` names.

    Args:
        wanted: ``("all",)``, ``("none",)``, or names of columns and attributes, in any Unicode form.
        values: The distinct values of the columns.
        others: Columns that cannot be attributes, and why.

    Raises:
        UserError: A name is unknown, or names a column that cannot be attributes.
    """
    if tuple(wanted) == ("none",):
        return ()
    found = {
        attribute.name: attribute
        for column, seen in values.items()
        for attribute in attributes_of(column, seen)
    }
    if tuple(wanted) == ("all",):
        return tuple(found.values())
    reasons = {**others, **unusable_columns(values)}
    chosen: dict[str, Attribute] = {}
    for asked in wanted:
        name = match_name(asked, {*found, *values, *reasons})
        if name in reasons and name not in found:
            raise UserError(
                f"column {name!r} cannot be used as attributes ({reasons[name]}); allowed: yes/no, or up to"
                f" {MAX_CLASSES} whole numbers or strings"
            )
        chosen |= {a.name: a for a in found.values() if name in (a.name, a.column)}
    return tuple(chosen.values())


def unusable_columns(values: Mapping[str, set[Value]]) -> dict[str, str]:
    """Columns whose values give no attributes, and why."""
    return {column: why for column, seen in values.items() if (why := why_unusable(seen))}


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def can_hold(kind: pa.DataType, attribute: Attribute) -> bool:
    """Whether a column of this type can hold the attribute's ``yes`` and ``no`` values."""
    try:
        return all(
            pa.scalar(value, kind).is_valid for value in (attribute.yes, attribute.no) if value is not None
        )
    except (pa.ArrowException, OverflowError):
        return False


def indicators(
    table: pa.Table, attributes: tuple[Attribute, ...]
) -> tuple[Bool[np.ndarray, "K A"], Bool[np.ndarray, "K A"]]:
    """For every row and attribute, whether it is set, and whether it is known to be unset."""
    present = np.zeros((len(table), len(attributes)), dtype=bool)
    absent = np.zeros_like(present)
    values = {name: _values(table[name]) for name in dict.fromkeys(a.column for a in attributes)}
    for j, attribute in enumerate(attributes):
        column = values[attribute.column]
        equal = pc.equal(column, pa.scalar(attribute.yes, column.type))
        present[:, j] = pc.fill_null(equal, False).to_numpy()
        other = (
            pc.invert(equal)
            if attribute.no is None
            else pc.equal(column, pa.scalar(attribute.no, column.type))
        )
        absent[:, j] = pc.fill_null(other, False).to_numpy()
    return present, absent
