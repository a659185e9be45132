"""Docstrings as Markdown: ``:func:`name` `` becomes the name in code."""

import re
from typing import Any

import griffe


class DocstringRoles(griffe.Extension):
    """Replaces Sphinx roles, which Markdown does not know, in every docstring that is shown."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe for every module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", obj.docstring.value)
