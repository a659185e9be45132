"""Attributes as a small table, for consoles and notebooks."""

import html
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lbae.errors import printable

_SHOWN, _LONGEST = 50, 60  # rows, characters of a name


class AttributeRow(NamedTuple):
    """What is known of an attribute.

    ``share`` of the ``rows`` that know it have it. ``trusted``: enough rows for edits by ``exchange``; None
    where there are no models to edit with.
    """

    name: str
    share: float
    rows: int
    trusted: bool | None


def text_table(rows: Sequence[AttributeRow]) -> str:
    """One line per attribute, at most 50."""
    cells = [AttributeRow._fields, *map(_cells, rows[:_SHOWN])]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join([name.ljust(widths[0]), *map(str.rjust, rest, widths[1:])]).rstrip()
        for name, *rest in cells
    ]
    return "\n".join([*lines, *_rest(rows)])


def html_table(rows: Sequence[AttributeRow]) -> str:
    """The same as HTML."""
    head = _html_line("th", AttributeRow._fields)
    lines = [_html_line("td", _cells(row)) for row in rows[:_SHOWN]]
    return "".join(["<table>", head, *lines, "</table>", *_rest(rows)])


def _html_line(tag: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"


def _cells(row: AttributeRow) -> tuple[str, ...]:
    trusted = {True: "yes", False: "no", None: "-"}[row.trusted]
    return f"{printable(row.name):.{_LONGEST}}", f"{row.share:.1%}", f"{row.rows:,}", trusted


def _rest(rows: Sequence[AttributeRow]) -> list[str]:
    return [f"and {len(rows) - _SHOWN:,} more"] if len(rows) > _SHOWN else []
