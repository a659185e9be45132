"""Prompts of OpenAI's API: lists of attribute names, because no model here understands free text."""

import re
import unicodedata
from collections.abc import Iterable

from lbae.core.latents.attribute_names import match_name
from lbae.errors import UserError

_NOT = "not "
_BETWEEN = " \t\r\n,"
_MAX_NAMES = 64  # as in the fields of the other requests
_QUOTED = re.compile(r'"((?:[^"]|"")*)"\s*(?:,|$)')


def parse_prompt(prompt: str, known: Iterable[str]) -> dict[str, bool]:
    """The attributes that a prompt asks for (True) and excludes (False).

    A prompt is a list of ``NAME`` and ``not NAME``, separated by commas. The longest known name wins, because
    names can hold commas or begin with "not ". Any name may stand in double quotes (``""`` for a quote).
    UserError for an unknown name, one that is both asked for and excluded, or more than 64 names.
    """
    names, given, count = list(known), dict[str, bool](), 0
    spellings = {unicodedata.normalize(form, name): name for form in ("NFD", "NFC") for name in names}
    spellings |= dict(zip(names, names, strict=True))  # an exact name wins over another name's form
    longest_first = sorted(spellings, key=len, reverse=True)
    rest = prompt.lstrip(_BETWEEN)
    while rest:
        wanted, found = True, _known_name(rest, longest_first)
        if found is None and rest.startswith(_NOT):
            wanted, rest = False, rest.removeprefix(_NOT).lstrip()
            found = _known_name(rest, longest_first)
        if found is not None:
            name, length = spellings[found], len(found)
        elif quoted := _QUOTED.match(rest):
            name, length = match_name(quoted[1].replace('""', '"'), names), quoted.end()
        else:
            words = rest.partition(",")[0]
            name, length = match_name(words.strip(), names), len(words)
        if given.setdefault(name, wanted) != wanted:
            raise UserError(f"the prompt asks for both {name!r} and not {name!r}")
        if (count := count + 1) > _MAX_NAMES:
            raise UserError(f"the prompt has more than {_MAX_NAMES} names; allowed: {_MAX_NAMES}")
        rest = rest[length:].lstrip(_BETWEEN)
    return given


def _known_name(text: str, longest_first: list[str]) -> str | None:
    """The longest known name that begins a text and is followed by a comma or by the end of the text."""
    for name in longest_first:
        if text.startswith(name) and text[len(name) :].lstrip()[:1] in ("", ","):
            return name
    return None
