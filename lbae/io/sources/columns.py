"""One schema for the rows of several files.

A column's types are widened if no value changes; otherwise the files are refused. A column that a file lacks
is null for its rows.
"""

import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from lbae.errors import LbaeError, UserError

_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
_INTEGER = re.compile(r"0|-?[1-9]\d{0,17}")


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type with view types replaced by plain ones, which pyarrow can filter."""
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(plain_type(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(plain_type(kind.value_type)))
    return kind


def common_columns(files: Iterable[tuple[str, pa.Schema]], uri: str) -> pa.Schema:
    """The columns of all files of a source, in types that hold every file's values.

    Raises:
        UserError: No type holds a column's types without loss.
    """
    seen: dict[str, dict[pa.DataType, str]] = {}
    for file, schema in files:
        for field in schema:
            seen.setdefault(field.name, {}).setdefault(field.type, file)
    return pa.schema([(name, _common_type(name, first, uri)) for name, first in seen.items()])


def _common_type(name: str, first: Mapping[pa.DataType, str], uri: str) -> pa.DataType:
    """The common type of a column; ``first`` maps each of the column's types to the first file with it."""
    common = next(iter(first))
    for kind, file in first.items():
        wider = _wider(common, kind)
        if wider is None:
            other = next((before for before in first if _wider(before, kind) is None), common)
            raise UserError(
                f"the files of {uri} have columns that do not fit together: {name!r} is {other} in"
                f" {first.get(other, 'others')} and {kind} in {file}; write it with one type, or under two"
                f" names"
            )
        common = wider
    return common


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of both without loss; None if there is none.

    64-bit integers and floats become doubles. :func:`check_integers` and the cast refuse values that would
    change.
    """
    if one == other:
        return one
    if any(map(pa.types.is_decimal, (one, other))) and any(map(pa.types.is_floating, (one, other))):
        return None
    try:
        schemas = [pa.schema([("", kind)]) for kind in (one, other)]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        plain = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in (one, other)]
        return None if plain == [one, other] else _wider(*plain)


def check_integers(files: Mapping[str, tuple[pa.Schema, frozenset[str]]], uri: str) -> None:
    """Raise UserError if a column holds integers beyond 2**53 in one file and floats in another.

    Such integers would be rounded. ``files`` gives each file's schema and the columns with such integers.
    """
    floats = {
        f.name: file for file, (schema, _) in files.items() for f in schema if pa.types.is_floating(f.type)
    }
    for file, (_, large) in files.items():
        for name in sorted(large & floats.keys()):
            raise UserError(
                f"the files of {uri} have columns that do not fit together: {name!r} holds integers beyond"
                f" 2**53 in {file} and is a column of floats in {floats[name]}, which cannot hold them; write"
                f" it as integers there, with nulls for unknown values"
            )


def partition_columns(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """For every file, the columns given by its folders ``column=value`` (Hive partitions).

    A column holds integers if all its values are integers without leading zeros, else strings.
    """
    found = {name: dict(_partitions(name)) for name in names}
    values: dict[str, list[str]] = {}
    for columns in found.values():
        for column, value in columns.items():
            values.setdefault(column, []).extend([] if value is None else [value])
    numbers = {column for column, texts in values.items() if texts and all(map(_INTEGER.fullmatch, texts))}
    return {
        name: {
            column: int(value) if value is not None and column in numbers else value
            for column, value in columns.items()
        }
        for name, columns in found.items()
    }


def _partitions(name: str) -> Iterable[tuple[str, str | None]]:
    for folder in posixpath.dirname(name).split("/"):
        column, equals, value = folder.partition("=")
        if column and equals:
            yield unquote(column), None if value == _NULL_PARTITION else unquote(value)


def check_fit(found: pa.Schema, table: pa.Schema, out: str) -> None:
    """Raise UserError unless ``table`` has every column of ``found``, in a type that holds its values."""
    fit = all(
        field.name in table.names
        and _wider(table.field(field.name).type, field.type) == table.field(field.name).type
        for field in found
    )
    if not fit:
        here, there = (
            ", ".join(f"{field.name} {field.type}" for field in schema) or "none" for schema in (found, table)
        )
        raise UserError(
            f"the images have other columns ({here}) than {out} ({there}); encode them into a new table"
        )


def with_columns(
    rows: pa.Table, columns: pa.Schema, constants: Mapping[str, Any], file: str
) -> dict[str, pa.ChunkedArray | pa.Array]:
    """The columns of a file's rows by name, in the types of the whole source.

    ``constants`` holds the columns that the file's folders give.

    Raises:
        LbaeError: The type of the whole source cannot hold a value of the file.
    """
    found: dict[str, pa.ChunkedArray | pa.Array] = {}
    for field in columns:
        try:
            if field.name in rows.column_names:
                found[field.name] = rows[field.name].cast(field.type)
            elif (value := constants.get(field.name)) is not None:
                found[field.name] = pa.repeat(pa.scalar(value, field.type), len(rows))
            else:
                found[field.name] = pa.nulls(len(rows), field.type)
        except pa.ArrowException as error:
            raise LbaeError(
                f"column {field.name!r} of {file} cannot be read as {field.type}, the common type of the"
                f" source's files: {error}"
            ) from error
    return found
