"""Artifacts: folders that are published by writing ``manifest.json`` last.

A folder without a manifest is not an artifact: whatever it holds is unfinished. Files that the manifest does
not name do not belong to it.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import posixpath
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import lbae
from lbae.errors import OverwriteNeeded, UserError
from lbae.io.storage.location import Location, absolute, resolve

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
# Marks a folder as one that a job of this package began and may clear.
BEGUN = ".unfinished"
# What the marker says while a folder is being cleared: what a kill leaves there is no run's, and any job
# clears it.
_CLEARING = {"clearing": True}
# What a job that can be continued has done so far; readers of Parquet folders pass over it.
WORK = "_work"
# Where part files lie that plain Parquet readers take as a whole, so that nothing else may lie there.
_TABLES = ("data", "quarantine")

Inputs = Collection[str | None]
Work = dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an artifact is, what it was made from and with."""

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


def digest(*parts: bytes) -> str:
    """Fingerprint of byte strings, in order."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part).to_bytes(8, "little"))
        sha.update(part)
    return sha.hexdigest()[:32]


def digest_json(value: Any) -> str:
    """Fingerprint of a JSON value."""
    return digest(json.dumps(value, sort_keys=True).encode())


class RowDigest:
    """A fingerprint of rows that does not depend on their order or on how they are spread over parts."""

    def __init__(self, total: int = 0) -> None:
        self.total = total

    def add(self, rows: Iterable[bytes]) -> None:
        """Add rows."""
        for row in rows:
            self.total += int.from_bytes(hashlib.sha256(row).digest(), "little")
        self.total %= 2**256

    def fingerprint(self, salt: str) -> str:
        """The fingerprint of all rows so far together with what else identifies the table."""
        return digest(salt.encode(), self.total.to_bytes(32, "little"))


def read_manifest(uri: str, *kinds: str) -> Manifest:
    """The manifest of a finished artifact, of one of the given kinds when any are given; UserError when there
    is none.
    """
    location = resolve(uri)
    if not (location / MANIFEST).exists():
        if not location.exists():
            raise UserError(f"there is no artifact at {uri}: it does not exist")
        raise UserError(f"{uri} is not a finished artifact (no {MANIFEST}); run the job that writes it again")
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
        raise UserError(f"{uri}/{MANIFEST} is damaged: {error!r}") from error
    if kinds and manifest.kind not in kinds:
        raise UserError(f"{uri} is a {manifest.kind}; a {' or '.join(kinds)} is needed here")
    return manifest


def _check_apart(out: str, inputs: Inputs) -> None:
    location = resolve(out)
    for uri in inputs:
        if uri and location.holds(resolve(uri)):
            raise UserError(
                f"{uri}, which is read, lies in the output {out}, which is cleared; choose another --out"
            )


def finished(
    out: str,
    kind: str,
    parents: dict[str, str],
    config: dict[str, Any],
    overwrite: bool,
    inputs: Inputs,
    work: Work = None,
) -> dict[str, Any] | None:
    """The job's result, marked ``already``, when the same artifact (config and parents) stands at ``out`` and
    is to stay.

    Nothing else is removed. UserError when one of ``inputs``, the URIs that the job reads, is or lies in
    ``out``, or when ``out`` holds another artifact that may not be overwritten, files that are no artifact's,
    or leftovers of another run where leftovers stay: ``work`` says what they depend on besides, as how the
    work is cut.
    """
    _check_apart(out, inputs)
    location = resolve(out)
    if (location / MANIFEST).exists():
        manifest = read_manifest(out)
        if overwrite:
            return None
        if (manifest.kind, manifest.parents, manifest.config) != (kind, parents, config):
            why = _differences(manifest, kind, parents, config)
            raise OverwriteNeeded(
                f"{out} already holds a {manifest.kind} {why}; use --overwrite to replace it"
            )
        clear_published(out, manifest)
        return {"out": absolute(out), **manifest.result, "already": True}
    if location.exists() and not (location / BEGUN).exists() and not location.is_empty_folder():
        raise UserError(f"{out} already exists and is no artifact of this package; choose another --out")
    if work is not None:
        _is_continued(location, _identity(kind, parents, config, work), overwrite)
    return None


def begin(
    out: str,
    kind: str,
    parents: dict[str, str],
    config: dict[str, Any],
    overwrite: bool,
    inputs: Inputs,
    work: Work = None,
) -> dict[str, Any] | None:
    """Make ``out`` ready to be written, unless it is :func:`finished`, whose arguments, result and errors
    these are.

    Another artifact and leftovers of an unfinished run are removed, but leftovers of this run when ``work``
    is given. A job that can fail before it has anything to write asks :func:`finished` first.
    """
    if done := finished(out, kind, parents, config, overwrite, inputs, work):
        return done
    location, identity = resolve(out), _identity(kind, parents, config, work)
    if (location / MANIFEST).exists() or work is None or not _is_continued(location, identity, overwrite):
        _clear(location)
    (location / BEGUN).write_bytes(json.dumps(identity).encode())
    return None


def _clear(location: Location) -> None:
    """Remove all but the marker and other artifacts below: whole folders where it can, and single files
    beside artifacts.
    """
    if location.exists():
        (location / BEGUN).write_bytes(json.dumps(_CLEARING).encode())
        (location / MANIFEST).remove()
        nested = {name.split("/")[0] for name, _ in location.files() if name.endswith(f"/{MANIFEST}")}
        for name in location.names() - nested - {BEGUN}:
            (location / name).remove()
        _sweep(location, ())


def _identity(kind: str, parents: dict[str, str], config: dict[str, Any], work: Work) -> dict[str, Any]:
    return {"kind": kind, "parent": parents, "generation": 1, "work": work or {}, **config}


def begin_update(
    out: str, manifest: Manifest, parents: dict[str, str], overwrite: bool, inputs: Inputs, work: Work = None
) -> None:
    """Make a finished artifact ready for its next generation; leftovers of the same update stay.

    UserError when there are leftovers of another one, unless they may be overwritten. ``inputs`` and ``work``
    as for :func:`begin`.
    """
    _check_apart(out, inputs)
    location = resolve(out)
    identity = {"parent": parents, "generation": manifest.generation + 1, "work": work or {}}
    clear_published(out, manifest)
    if not _is_continued(location, identity, overwrite):
        sweep(out, manifest)
    (location / BEGUN).write_bytes(json.dumps(identity).encode())


def clear_published(out: str, manifest: Manifest) -> None:
    """Remove what a run left that was killed between writing this manifest and its end; an update's work
    stays.
    """
    begun = resolve(out) / BEGUN
    if begun.exists():
        if json.loads(begun.read_bytes()).get("generation", 1) > manifest.generation:
            return
        begun.remove()
    (resolve(out) / WORK).remove()


def _is_continued(location: Location, identity: dict[str, Any], overwrite: bool) -> bool:
    """Whether the leftovers are of this very run; UserError when they are of another and may not be
    overwritten.
    """
    if not (location / BEGUN).exists():
        return False
    begun = json.loads((location / BEGUN).read_bytes())
    if begun == _CLEARING:
        return False
    changed = changes(begun, identity)
    if changed and not overwrite:
        raise OverwriteNeeded(
            f"{location} holds an unfinished run with other options ({changed}); give the same ones to"
            f" continue it,"
            " or --overwrite to begin anew"
        )
    return not changed


def publish(
    out: str,
    kind: str,
    *,
    fingerprint: str,
    parents: dict[str, str],
    config: dict[str, Any],
    rows: int,
    files: Iterable[str],
    result: dict[str, Any],
    generation: int = 1,
) -> dict[str, Any]:
    """Write the manifest: from here on the folder is an artifact. Returns the job's result with URI and
    fingerprint.

    A later generation replaces the manifest of an artifact whose own files it leaves alone. Parts that
    ``files`` do not name are removed from the tables before: a run that was killed may have cut its rows into
    other ones.
    """
    location, files = resolve(out), tuple(sorted(files))
    for folder in _TABLES:
        _sweep(location, files, folder)
    result = {"kind": kind, "fingerprint": fingerprint, "rows": rows, **result}
    manifest = Manifest(
        kind=kind,
        fingerprint=fingerprint,
        parents=parents,
        config=config,
        rows=rows,
        files=files,
        result=result,
        generation=generation,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        packages=_versions(),
    )
    (location / MANIFEST).write_bytes(
        json.dumps(dataclasses.asdict(manifest), indent=2, default=str).encode()
    )
    (location / BEGUN).remove()
    return {"out": absolute(out), **result}


def sweep(out: str, manifest: Manifest) -> None:
    """Remove from an artifact's folder what its manifest does not name: older generations, leftovers of a
    killed update.

    Other artifacts below stay.
    """
    (resolve(out) / WORK).remove()
    _sweep(resolve(out), (*manifest.files, MANIFEST))


def _sweep(location: Location, kept: Iterable[str], folder: str = "") -> None:
    below, kept = location / folder, frozenset(kept)
    found = [name for name, _ in below.files(temporary=True)] if below.exists() else []
    nested = tuple(name.removesuffix(MANIFEST) for name in found if name.endswith(f"/{MANIFEST}"))
    for name in found:
        if posixpath.join(folder, name) not in kept and not name.startswith(nested):
            (below / name).remove()


def _differences(manifest: Manifest, kind: str, parents: dict[str, str], config: dict[str, Any]) -> str:
    """What sets the artifact that stands there apart from the one asked for."""
    if manifest.kind != kind:
        return f"(a {kind} was to be written)"
    changed = changes({"parent": manifest.parents, **manifest.config}, {"parent": parents, **config})
    return f"made otherwise ({changed})"


def changes(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The fields in which two trees differ, with both values; empty when they do not."""
    before, now = _flat(old), _flat(new)
    changed = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    return "; ".join(f"{name} was {before.get(name)}, is now {now.get(name)}" for name in changed)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        leaves |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return leaves


def _versions() -> dict[str, str]:
    versions = {"lbae": lbae.__version__}
    for name in ("torch", "numpy", "pyarrow", "ray"):
        with contextlib.suppress(
            importlib.metadata.PackageNotFoundError
        ):  # training also runs where there is no Ray
            versions[name] = importlib.metadata.version(name)
    return versions
