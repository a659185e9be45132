"""Labelled images for training a classifier, and the error for a source that has none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, UInt8

from lbae.config import ModelConfig
from lbae.errors import UserError
from lbae.io.artifacts.attribute_columns import (
    Attribute,
    attributes_of,
    candidate_columns,
    column_values,
    indicators,
    why_unusable,
)
from lbae.io.sources.decode import decode_rows
from lbae.io.sources.source import Shard, read_shard


class NoUsableLabels(UserError):
    """No column of the images can train a classifier; the message says which columns they have."""


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Images, the attributes that each has (``present``), and those that each is known to lack (``absent``).

    ``unusable`` maps each column that gives no attributes to the reason.
    """

    images: UInt8[np.ndarray, "K H W C"]
    attributes: tuple[Attribute, ...]
    present: Bool[np.ndarray, "K A"]
    absent: Bool[np.ndarray, "K A"]
    unusable: Mapping[str, str]


def read_labelled_images(uri: str, shards: Sequence[Shard], config: ModelConfig) -> LabelledImages:
    """The decodable images of some shards with their attributes; NoUsableLabels when they have none."""
    images, rows = [], []
    others: dict[str, None] = {}
    for shard in shards:
        decoded = decode_rows(read_shard(shard), config)
        images.append(decoded.images)
        others |= dict.fromkeys(decoded.rows.column_names[2:])  # after key and path
        rows.append(decoded.rows.select(candidate_columns(decoded.rows.schema)))
    table = pa.concat_tables(rows, promote_options="default")
    attributes, unusable = _attributes(table)
    if not attributes:
        found = f"no label or attribute column (columns: {', '.join(others) or 'none but the image'})"
        if unusable:
            why = "; ".join(f"{name}: {reason}" for name, reason in unusable.items())
            found = f"only columns that cannot be used ({why})"
        raise NoUsableLabels(f"a classifier needs labels or attributes; {uri} has {found}")
    present, absent = indicators(table, attributes)
    return LabelledImages(
        images=np.concatenate(images),
        attributes=attributes,
        present=present,
        absent=absent,
        unusable=unusable,
    )


def _attributes(table: pa.Table) -> tuple[tuple[Attribute, ...], dict[str, str]]:
    """The attributes of a table's columns, and the columns that give none, with the reason."""
    found: list[Attribute] = []
    unusable: dict[str, str] = {}
    for name, values in column_values(table, table.column_names).items():
        if why := why_unusable(values):
            unusable[name] = why
            continue
        try:
            found += attributes_of(name, values)
        except UserError:  # an error for a column that the user chose, but nobody chose this one
            unusable[name] = "-1 among its classes, which nearly always means unknown: make it null"
    return tuple(found), unusable
