"""The manifest of an artifact: its kind, its inputs and options, and the files that belong to it.

``manifest.json`` is written last and makes a folder an artifact. A folder without a manifest is unfinished.
Files that the manifest does not name do not belong to the artifact.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import lbae
from lbae.errors import UserError
from lbae.io.storage.location import absolute, resolve

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
_PACKAGES = ("torch", "numpy", "pyarrow", "ray")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an artifact is, and the inputs, options and package versions it was made with."""

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
    location = resolve(uri)
    if not (location / MANIFEST).exists():
        if not location.exists():
            raise UserError(f"there is no artifact at {uri}: it does not exist")
        raise UserError(f"{uri} is not a finished artifact (no {MANIFEST}); run again the job that writes it")
    try:
        tree = json.loads((location / MANIFEST).read_bytes())
        version = int(tree["format_version"])
        if version > FORMAT_VERSION:
            raise UserError(
                f"{uri} has format version {version}; this lbae reads up to {FORMAT_VERSION}: upgrade lbae"
            )
        known = {f.name for f in dataclasses.fields(Manifest)}
        manifest = Manifest(
            **{**{k: v for k, v in tree.items() if k in known}, "files": tuple(tree["files"])}
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{uri}/{MANIFEST} is damaged ({error!r}); write the artifact again") from error
    if kinds and manifest.kind not in kinds:
        raise UserError(f"{uri} is of kind {manifest.kind}; allowed here: {', '.join(kinds)}")
    return manifest


def changes(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The fields in which two trees differ, as text with both values; empty if they are equal."""
    before, now = _leaves(old), _leaves(new)
    changed = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    return "; ".join(
        f"{name} was {before.get(name, 'absent')}, is now {now.get(name, 'absent')}" for name in changed
    )


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
