"""The manifest of an artifact: its kind, its inputs and options, and the files that belong to it.

``manifest.json`` is written last and makes a folder an artifact. A folder without a manifest is unfinished.
Files that the manifest does not name do not belong to the artifact.

A manifest may come from a stranger: it is read with limits, its fields have the types below, and the names of
files lead nowhere but below the folder.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar, get_args, get_origin

import lbae
from lbae.errors import UserError
from lbae.io.storage.hub import fetched
from lbae.io.storage.json_file import read_object
from lbae.io.storage.location import absolute, resolve
from lbae.io.storage.stored_file import damaged

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
_MOST_TEXT = 200
_PACKAGES = ("torch", "numpy", "pyarrow", "ray")

Section = Literal["parents", "config", "result"]
_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an artifact is, and the inputs, options and package versions it was made with.

    ValueError if a field has another type, or a file's name is no relative path that stays below the folder.
    """

    kind: str
    fingerprint: str
    parents: dict[str, str]
    config: dict[str, Any]
    rows: int
    files: tuple[str, ...]
    result: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    generation: int = 1
    created: str = ""
    packages: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for one in dataclasses.fields(self):
            value, wanted = getattr(self, one.name), get_origin(one.type) or one.type
            if type(value) is not wanted:
                raise ValueError(f"{one.name} is {value!r:.100}; allowed: {one.type}")
        for text in (self.kind, self.fingerprint):  # errors print them
            if not _is_short(text):
                raise ValueError(
                    f"kind or fingerprint is {text!r:.100}; allowed: up to {_MOST_TEXT} characters"
                )
        for name in (*self.parents.values(), *self.files):
            if not isinstance(name, str):
                raise ValueError(f"{name!r:.100} is named as a parent or a file; allowed: a string")
        for name in self.files:
            _check_name(name)
        if len({*self.files}) < len(self.files):
            raise ValueError("files names a file more than once")
        if self.rows < 0 or self.generation < 1:
            raise ValueError(
                f"rows are {self.rows} and generation is {self.generation}; allowed: from 0 and 1"
            )

    def stored_result(self, uri: str) -> dict[str, Any]:
        """The result of the job that wrote the artifact at ``uri``, with ``already`` set to True."""
        return {"out": absolute(uri), **self.result, "already": True}


def write_manifest(uri: str, manifest: Manifest) -> None:
    """Write the manifest with the current time and package versions; this makes the folder an artifact."""
    complete = dataclasses.replace(
        manifest, created=datetime.now(UTC).isoformat(timespec="seconds"), packages=_versions()
    )
    text = json.dumps(dataclasses.asdict(complete), indent=2, default=str)
    (resolve(uri) / MANIFEST).write_bytes(text.encode())


def read_manifest(uri: str, *kinds: str) -> Manifest:
    """The manifest of a finished artifact.

    Raises:
        UserError: There is no finished artifact, its manifest is damaged or of a newer format version, or its
            kind is not one of ``kinds``, if any are given.
    """
    location = fetched(uri, [MANIFEST])
    if not (location / MANIFEST).exists():
        if not location.exists():
            raise UserError(f"there is no artifact at {uri}: it does not exist")
        raise UserError(f"{uri} is not a finished artifact (no {MANIFEST}); run again the job that writes it")
    tree = read_object(location / MANIFEST)
    try:
        version = int(tree["format_version"])
        if version > FORMAT_VERSION:
            raise UserError(
                f"{uri} has format version {version}; this lbae reads up to {FORMAT_VERSION}: upgrade lbae"
            )
        if not isinstance(tree["files"], list):
            raise TypeError("files are no list")
        known = {f.name for f in dataclasses.fields(Manifest)}
        manifest = Manifest(
            **{**{k: v for k, v in tree.items() if k in known}, "files": tuple(tree["files"])}
        )
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise damaged(location / MANIFEST, f"{error!r:.300}") from error
    if kinds and manifest.kind not in kinds:
        raise UserError(f"{uri} is of kind {manifest.kind}; allowed here: {', '.join(kinds)}")
    return manifest


def entry(uri: str, manifest: Manifest, section: Section, name: str, kind: type[_Value]) -> _Value:
    """An entry of the manifest of the artifact at ``uri``.

    Raises:
        UserError: The manifest lacks the entry, or it is not of type ``kind``.
    """
    value = getattr(manifest, section).get(name)
    if type(value) is not kind:
        raise _wrong(uri, f"{section}.{name}", value, kind.__name__)
    return value


def option(
    uri: str, manifest: Manifest, section: Section, name: str, literal: Any, otherwise: str | None = None
) -> Any:
    """An entry that is one of the values of the type ``literal``; ``otherwise`` if the manifest lacks it.

    Raises:
        UserError: The entry has another value.
    """
    value = getattr(manifest, section).get(name, otherwise)
    if value not in get_args(literal):
        raise _wrong(uri, f"{section}.{name}", value, ", ".join(get_args(literal)))
    return value


def attribute_names(uri: str, manifest: Manifest) -> tuple[str, ...]:
    """The names of the attributes that the artifact at ``uri`` knows; raises UserError if there are none."""
    names = entry(uri, manifest, "result", "attributes", list)
    if not all(isinstance(name, str) for name in names):
        raise _wrong(uri, "result.attributes", names, "strings")
    return tuple(names)


def _wrong(uri: str, what: str, found: Any, allowed: str) -> UserError:
    return damaged(resolve(uri) / MANIFEST, f"{what} is {found!r:.100}; allowed: {allowed}")


def _check_name(name: str) -> None:
    """Raise ValueError unless a name is a relative path that stays below its folder, on any system.

    It must also be printable, because errors show it.
    """
    if "\\" in name or not name.isprintable() or not {"", ".", ".."}.isdisjoint(name.split("/")):
        raise ValueError(f"the file name {name!r:.100}; allowed: a path below the folder, such as data/part")


def changes(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The fields in which two trees differ, as text with both values; empty if they are equal."""
    before, now = _leaves(old), _leaves(new)
    changed = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    return "; ".join(
        f"{_shown(name)} was {_shown(before.get(name, 'absent'))}, is now {_shown(now.get(name, 'absent'))}"
        for name in changed
    )


def _shown(value: Any) -> str:
    text = str(value)
    return text if _is_short(text) else f"{text!r:.{_MOST_TEXT}}"


def _is_short(text: str) -> bool:
    """Whether a message can show a text as it is: no control characters, and not long."""
    return text.isprintable() and len(text) <= _MOST_TEXT


def _leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        leaves |= _leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return leaves


def _versions() -> dict[str, str]:
    versions = {"lbae": lbae.__version__}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # Ray is optional for training
            versions[name] = importlib.metadata.version(name)
    return versions
