"""The values of nested results, by one name each."""

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(tree: Mapping[str, Any], separator: str = ".", prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested dicts, each with the names on the way to it joined by ``separator``."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, separator, f"{prefix}{name}{separator}")
        else:
            yield prefix + name, value


def numbers(tree: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of nested dicts by path, such as ``distances/mixture/test images/frechet``."""
    return {
        path: float(value)
        for path, value in leaves(tree, "/")
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
