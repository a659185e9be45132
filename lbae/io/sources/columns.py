"""The columns of rows from several files: types are promoted, what a file lacks is null, or the files are
refused.
"""

from collections.abc import Iterable

import pyarrow as pa

from lbae.errors import UserError


def together(schemas: Iterable[pa.Schema], uri: str) -> pa.Schema:
    """The columns of all files of a source; UserError when one has types that do not go together."""
    try:
        return pa.unify_schemas(list(dict.fromkeys(schemas)), promote_options="permissive")
    except pa.ArrowException as error:
        raise UserError(f"the files of {uri} have columns that do not fit together: {error}") from error


def check_fit(found: pa.Schema, table: pa.Schema, out: str) -> None:
    """UserError when rows with columns ``found`` cannot be added to a table that has others, and
    keeps them."""
    try:
        fit = pa.unify_schemas([table, found], promote_options="permissive").equals(table)
    except pa.ArrowException:
        fit = False
    if not fit:
        here, there = (
            ", ".join(f"{field.name} {field.type}" for field in schema) or "none" for schema in (found, table)
        )
        raise UserError(
            f"the images have other columns ({here}) than {out} ({there}); encode them into another table"
        )


def laid_out(rows: pa.Table, columns: pa.Schema) -> dict[str, pa.ChunkedArray | pa.Array]:
    """The columns of rows by name, in the types of the whole."""
    there = set(rows.column_names)
    return {
        field.name: rows[field.name].cast(field.type)
        if field.name in there
        else pa.nulls(len(rows), field.type)
        for field in columns
    }
