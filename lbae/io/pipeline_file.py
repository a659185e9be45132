"""The TOML file of a pipeline: data, output, and one table of options per stage."""

import tomllib
from collections.abc import Iterable
from typing import Any

from lbae.errors import UserError, unknown
from lbae.io.storage.location import readable

_MOST_BYTES = 2**16
_MOST_DOTS = 200  # tomllib takes memory that grows with the square of the parts of a dotted key
_URIS, _SWITCH = ("data", "out", "current"), "decode_once"


def read_pipeline(config: str, stages: Iterable[str]) -> dict[str, Any]:
    """The content of a pipeline's TOML file: ``data``, ``out``, ``current`` (URIs) and a table per stage.

    ``data`` may be a list.

    ``current``, the switch ``decode_once`` and all stages but ``train`` may be missing. The stages check
    their own options.

    Raises:
        UserError: An entry is missing, unknown or of another type.
    """
    asked = _read_toml(config)
    for name, value in asked.items():
        if name not in (known := (*_URIS, _SWITCH, *stages)):
            raise unknown("entry of the config", name, known)
        wanted, what = _type(name)
        if not isinstance(value, wanted):
            raise UserError(f"{name} of config {config} is {value!r:.100}; allowed: {what}")
    missing = [name for name in ("data", "out", "train") if name not in asked]
    missing += ["evaluate.data"] if "data" not in asked.get("evaluate", {"data": None}) else []
    if missing:
        raise UserError(f"config {config} lacks {', '.join(missing)}")
    return asked


def _type(name: str) -> tuple[type | tuple[type, ...], str]:
    """The type of an entry, and in words what is allowed."""
    if name == "data":
        return (str, list), "paths or URIs in quotes"
    if name in _URIS:
        return str, "a path or a URI in quotes"
    return (bool, "true or false") if name == _SWITCH else (dict, f"a table: [{name}] on a line of its own")


def _read_toml(uri: str) -> dict[str, Any]:
    data = readable(uri, "file").read_bytes(most=_MOST_BYTES)
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.count(b".") > _MOST_DOTS:
            raise UserError(
                f"line {number} of {uri} has {line.count(b'.')} dots; allowed: at most {_MOST_DOTS} per line"
            )
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{uri} is not valid TOML: {error}") from error
