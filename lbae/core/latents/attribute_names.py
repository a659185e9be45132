"""Find an attribute by the name that a person typed, in either Unicode form of its accents.

"é" is one character (form NFC, most keyboards) or "e" and an accent (form NFD, file names of macOS). Both
look the same, so a name in one form also finds an attribute in the other, unless the table has both.
"""

import unicodedata
from collections.abc import Iterable, Mapping

from lbae.errors import UserError, unknown

# No canonical form of a text has more than four times the characters of another.
_LONGEST_FORM = 4


def match_name(asked: str, known: Iterable[str]) -> str:
    """Return the known name equal to ``asked``, else the one with the same NFC form.

    UserError if there is none, or more than one.
    """
    known = list(known)
    if asked in known:
        return asked
    # Normalising n accents in a row takes n^2 steps, so names that are too long are not normalised.
    fits = len(asked) <= _LONGEST_FORM * max(map(len, known), default=0)
    form = _nfc(asked) if fits else None
    same = [name for name in known if _nfc(name) == form]
    if len(same) > 1:
        raise UserError(
            f"attribute {asked!r} is ambiguous: {len(same)} names look like it and differ in the Unicode form"
            f" of their accents ({', '.join(map(ascii, same))}); give one of them exactly"
        )
    if not same:
        raise unknown("attribute", asked, known)
    return same[0]


def match_given(given: Mapping[str, bool], known: Iterable[str]) -> dict[str, bool]:
    """Return ``given`` with known names; UserError for an unknown name, or one with both values."""
    known, matched = list(known), dict[str, bool]()
    for asked, value in given.items():
        name = match_name(asked, known)
        if matched.setdefault(name, value) != value:
            raise UserError(f"attribute {name!r} is asked for and excluded at the same time")
    return matched


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)
