"""JSON files that a stranger may have written: one object, of limited size and depth."""

import json
from typing import Any

from lbae.io.storage.location import Location
from lbae.io.storage.stored_file import damaged, stored_bytes

MOST_BYTES = 16 * 2**20
"""Largest JSON file that is read: the manifest of a table of 150,000 part files has 12 MB."""
_MOST_VALUES = 2 * 10**6  # an empty list takes two bytes of a file and 64 of memory
_LEVELS = 32


def read_object(location: Location) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: The file is missing or larger than 16 MiB, is not JSON, holds no object or more than about
            2 million values, or nests more than 32 levels.
    """
    return parse_object(stored_bytes(location, MOST_BYTES), location)


def parse_object(data: bytes, location: Location) -> dict[str, Any]:
    """Like :func:`read_object`, for the content ``data`` of a file that was read before."""
    if sum(map(data.count, (b",", b"[", b"{"))) > _MOST_VALUES:  # those inside texts count too
        raise damaged(location, f"its JSON holds more than {_MOST_VALUES} values")
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise damaged(location, f"it is not JSON ({error})") from error
    if not isinstance(tree, dict):
        raise damaged(location, f"it holds a {type(tree).__name__}; allowed: one object")
    if _is_deeper(tree, _LEVELS):
        raise damaged(location, f"its JSON is nested more than {_LEVELS} levels deep")
    return tree


def _is_deeper(tree: Any, levels: int) -> bool:
    values = tree.values() if isinstance(tree, dict) else tree
    nested = [value for value in values if isinstance(value, dict | list)]
    return bool(nested) and (levels == 1 or any(_is_deeper(value, levels - 1) for value in nested))
