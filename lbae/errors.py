"""The exceptions of the package; jobs turn them into one line and an exit code."""

import difflib
from collections.abc import Iterable


class LbaeError(Exception):
    """The work failed: exit code 1."""

    exit_code = 1


class UserError(LbaeError):
    """The request cannot be carried out as it was put: exit code 2."""

    exit_code = 2


class OverwriteNeeded(UserError):
    """What stands in the way is of another make; ``--overwrite`` replaces it."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not one of ``known``, with the nearest one and the whole list."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    if "," in name:
        hint = "; names are given one by one, not separated by commas"
    return UserError(f"unknown {kind} {name!r}{hint} (known: {', '.join(known) or 'none'})")
