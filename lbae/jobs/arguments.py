"""Parse the arguments of a job from a command line or a TOML table; the types of its signature decide.

On the command line, a list option takes several words (``--given A B``) or is repeated. Values may contain
commas. A job that takes words without an option needs the repetition.
"""

import difflib
import functools
import inspect
import types
from collections.abc import Callable, Sequence
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from lbae.errors import UserError
from lbae.jobs.options import REMOVED

Job = Callable[..., Any]
_TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def from_words(job: Job, words: Sequence[str]) -> functools.partial[Any]:
    """Return the job with its arguments bound from a command line.

    Raises:
        UserError: An option is unknown, missing, given twice, or has a value of the wrong type.
    """
    options = _Options(job, lambda name: "--" + name.replace("_", "-"))
    given: dict[str, Any] = {}
    loose: list[str] = []
    rest, last = list(words), ""
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            loose.append(word)
            options.check_loose(loose, last)
            continue
        option, equals, value = word.partition("=")
        name = option[2:].replace("-", "_")
        last = options.known(options.without_no(name))
        if last in given and not options.is_list(last):
            raise UserError(f"{options.label(last)} is given more than once; give it once")
        if options.hints[last] is bool:
            if equals:
                raise UserError(f"{option} takes no value; give it alone")
            given[last] = name == last
            continue
        if not equals:
            if not rest or rest[0].startswith("--"):
                options.refuse(last, "given without a value")
            value = rest.pop(0)
        if not options.is_list(last):
            given[last] = value
            continue
        given[last] = [*given.get(last, []), value]
        while not options.positional and rest and not rest[0].startswith("--"):
            given[last].append(rest.pop(0))
    return options.bind(given, loose, strict=False)


def from_values(job: Job, values: dict[str, Any], table: str) -> functools.partial[Any]:
    """Return the job with its arguments bound from a TOML table; errors name the option ``TABLE.OPTION``.

    Raises:
        UserError: An option is unknown, missing, or has a value of the wrong type.
    """
    options = _Options(job, lambda name: f"{table}.{name}")
    given = {options.known(name.replace("-", "_")): value for name, value in values.items()}
    return options.bind(given, [], strict=True)


class _Options:
    """The parameters of a job; ``label`` turns a name into what messages call it."""

    def __init__(self, job: Job, label: Callable[[str], str]) -> None:
        self.job, self.label, self.hints = job, label, get_type_hints(job)
        parameters = inspect.signature(job).parameters.values()
        self.positional = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]
        self.takes_more = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self.named = {p.name: p for p in parameters if p.kind not in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL)}

    def known(self, name: str) -> str:
        """Return the name; UserError with the nearest name if there is no such option."""
        if name in self.named:
            return name
        label = self.label(name)
        if instead := REMOVED.get((self.job.__name__, name)):
            raise UserError(f"option {label} was removed: {instead}")
        labels = [self.label(one) for one in self.named]
        near = difflib.get_close_matches(label, labels, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"unknown option {label}{hint} (options: {', '.join(labels)})")

    def without_no(self, name: str) -> str:
        """Return NAME for ``no_NAME`` if NAME is a switch; return any other name unchanged."""
        switch = name.removeprefix("no_")
        return switch if self.hints.get(switch) is bool else name

    def is_list(self, name: str) -> bool:
        """Whether the option takes several values."""
        return _is_list(self.hints[name])

    def check_loose(self, words: list[str], last: str) -> None:
        """UserError if there are more positional words than the job takes."""
        if len(words) > len(self.positional) and not self.takes_more:
            label = self.label(last) if last else ""
            hint = f"; give {label} once per value" if last and self.is_list(last) else ""
            takes = ", ".join(name.upper() for name in self.positional) or "options only"
            raise UserError(f"unexpected argument {words[-1]!r}{hint} ({self.job.__name__} takes {takes})")

    def bind(self, given: dict[str, Any], loose: list[str], *, strict: bool) -> functools.partial[Any]:
        """Return the job with these arguments converted to their types; ``strict`` allows no conversion."""
        missing = [name.upper() for name in self.positional[len(loose) :]]
        missing += [
            self.label(p.name) for p in self.named.values() if p.default is p.empty and p.name not in given
        ]
        if missing:
            raise UserError(f"{self.job.__name__} needs {', '.join(missing)}; --help lists all options")
        values = {name: self._checked(name, value, strict) for name, value in given.items()}
        return functools.partial(self.job, *loose, **values)

    def _checked(self, name: str, value: Any, strict: bool) -> Any:
        if not self.is_list(name):
            return self._converted(name, self.hints[name], value, strict)
        values = value if isinstance(value, list) else [value]
        return tuple(self._converted(name, get_args(self.hints[name])[0], one, strict) for one in values)

    def _converted(self, name: str, hint: Any, value: Any, strict: bool) -> Any:
        try:
            return TypeAdapter(hint).validate_python(value, strict=strict)
        except ValidationError:
            listed = "; give it once per value" if self.is_list(name) and "," in str(value) else ""
            self.refuse(name, f"{value!r}", listed)

    def refuse(self, name: str, found: str, hint: str = "") -> NoReturn:
        """Raise UserError with the values that the option allows."""
        raise UserError(f"{self.label(name)} is {found}; allowed: {_allowed(self.hints[name])}{hint}")


def _is_list(hint: Any) -> bool:
    return any(get_origin(one) in (tuple, Sequence) for one in (hint, *get_args(hint)))


def _allowed(hint: Any) -> str:
    """The allowed values of a type, in words."""
    if get_origin(hint) is Literal:
        return ", ".join(map(str, get_args(hint)))
    if _is_list(hint):
        return _allowed(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_allowed(one) for one in get_args(hint) if one is not types.NoneType)
    return _TYPES[hint]
