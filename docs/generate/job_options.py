"""The reference of the jobs, from the signatures and docstrings that ``lbae JOB --help`` prints."""

import inspect
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser

from lbae.cli import JOBS, load_job

Job = Callable[..., Any]
_TYPES = {str: "text", int: "whole number", float: "number", bool: "switch"}


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option of a job, or a word that it takes without an option."""

    label: str
    kind: str
    state: str
    """``required``, ``optional`` or the default."""
    meaning: str

    @property
    def usage(self) -> str:
        """How the option stands in a command."""
        return f"{self.label} ..." if self.label.startswith("--") else self.label


def every_job() -> Iterator[tuple[str, Job]]:
    """All jobs in the order of ``lbae --help``, and their subcommands, such as ``moments add``."""
    for name, module in JOBS.items():
        job = load_job(module)
        if isinstance(job, dict):
            yield from ((f"{name} {command}", one) for command, one in job.items())
        else:
            yield name, job


def options_of(job: Job) -> list[Option]:
    """The options of a job in the order of its signature."""
    hints = get_type_hints(job, include_extras=True)
    documented = {p.arg_name: p.description for p in docstring_parser.parse(inspect.getdoc(job) or "").params}
    return [
        Option(
            label=_label(parameter),
            kind=_kind(hints[parameter.name]),
            state=_state(parameter),
            meaning=_markdown(documented.get(parameter.name) or _shared_help(hints[parameter.name])),
        )
        for parameter in inspect.signature(job).parameters.values()
    ]


def reference() -> str:
    """A section per job in Markdown: what it does, then its options as a definition list."""
    return "\n\n".join(_section(name, job) for name, job in every_job())


def _section(name: str, job: Job) -> str:
    text = (inspect.getdoc(job) or "").partition("\n\nArgs:")[0]
    options, anchor = options_of(job), name.replace(" ", "-")
    needed = [option.usage for option in options if option.state == "required"]
    lines = [f"## {name} {{ #{anchor} }}", "", _markdown(text), ""]
    lines += ["```text", " ".join(["lbae", name, *needed]), "```", ""]
    for option in options:
        mark = f"{anchor}-{option.label.removeprefix('--').lower()}"
        lines += [
            f"[`{option.label}`](#{mark}){{ #{mark} .option }} <small>{option.kind}, {option.state}</small>",
            f":   {option.meaning}",
            "",
        ]
    return "\n".join(lines)


def _label(parameter: inspect.Parameter) -> str:
    if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
        return parameter.name.upper()
    return f"--{parameter.name.replace('_', '-')}"


def _kind(hint: Any) -> str:
    """A type in words, without the None of what may be left out."""
    if hasattr(hint, "__metadata__"):
        return _kind(get_args(hint)[0])
    if get_origin(hint) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(hint))
    if any(get_origin(one) in (tuple, Sequence) for one in (hint, *get_args(hint))):
        return f"{_kind(get_args(hint)[0])}, one or more"
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_kind(one) for one in get_args(hint) if one is not types.NoneType)
    return _TYPES[hint]


def _state(parameter: inspect.Parameter) -> str:
    value = parameter.default
    if value is None or value == () or parameter.kind is parameter.VAR_POSITIONAL:
        return "optional"
    if value is parameter.empty:
        return "required"
    if isinstance(value, bool):
        return f"default {'on' if value else 'off'}"
    return f"default {', '.join(f'`{one}`' for one in (value if isinstance(value, tuple) else (value,)))}"


def _shared_help(hint: Any) -> str:
    """The help of an option that several jobs share (lbae/jobs/options.py)."""
    found = [mark.help for mark in getattr(hint, "__metadata__", ()) if getattr(mark, "help", None)]
    return found[0] if found else ""


def _markdown(text: str) -> str:
    """Docstring text as paragraphs of Markdown without markup of their own."""
    paragraphs = (" ".join(part.split()) for part in text.replace("``", "`").split("\n\n"))
    return "\n\n".join(paragraphs).replace("*", "\\*").replace("<", "&lt;")
