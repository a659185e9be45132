"""The folder that a job writes one artifact to: found finished, begun, resumed, published.

While a job writes, a hidden marker says what the folder will become. A job that was killed and runs again
finds the marker: it resumes its own work, clears other leftovers, and never touches files that no lbae
job wrote.
"""

import json
import posixpath
from collections.abc import Collection, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from lbae.errors import OverwriteNeeded, UserError
from lbae.io.artifacts.manifest import MANIFEST, Manifest, changes, read_manifest, write_manifest
from lbae.io.storage.location import Location, absolute, resolve, usable_output
from lbae.io.storage.visibility import wait_until_visible

UNFINISHED = ".unfinished"
"""The marker of a folder that a job began: what it will become, so that the same job resumes it."""
WORK = "_work"
"""What a resumable job has done so far; readers of Parquet folders skip names with an underscore."""
# The marker while a folder is cleared. What a kill leaves then belongs to no run: any job clears it.
_CLEARING = {"clearing": True}
# Folders that Parquet readers take whole, so no stray file may stay in them.
_TABLES = ("data", "quarantine")


@dataclass(frozen=True)
class Output:
    """The artifact that a job is to write to the folder ``uri``: its kind, parents and config.

    Args:
        uri: The folder.
        kind: What the artifact will be, such as ``latent table``.
        parents: Fingerprints of what it is made from, by their roles.
        config: The options that its content depends on.
        inputs: URIs that the job reads; none may lie in the folder, which is cleared.
        resume_key: What finished work depends on besides parents and config, as how a source is cut. None for
            a job that cannot resume and begins anew.
        overwrite: Replace another artifact, or leftovers of another run.
        extends: The artifact in the folder that this one extends, as its next generation.
    """

    uri: str
    kind: str
    _: KW_ONLY
    parents: dict[str, str]
    config: dict[str, Any]
    inputs: Collection[str | None] = ()
    resume_key: dict[str, Any] | None = None
    overwrite: bool = False
    extends: Manifest | None = None

    @property
    def generation(self) -> int:
        """1, or the number after that of the artifact that is extended."""
        return self.extends.generation + 1 if self.extends else 1

    def existing(self) -> dict[str, Any] | None:
        """Return the stored result if the folder already holds this artifact and it is to stay, else None.

        Nothing but leftovers of a finished run is removed. A job that may fail before it has anything to
        write asks this first, and calls :meth:`begin` later.

        Raises:
            UserError: An input lies in the folder, or the folder holds files that no lbae job wrote.
            OverwriteNeeded: The folder holds another artifact, or leftovers of another run that could resume.
        """
        self._check_inputs_lie_elsewhere()
        location = self._location
        location.refresh()  # another machine may just have published here
        if self.extends:
            self._is_resumed()
        elif (location / MANIFEST).exists():
            return self._stored(read_manifest(self.uri))
        elif location.exists() and not (location / UNFINISHED).exists() and not location.is_empty_folder():
            raise UserError(
                f"{self.uri} already exists and is no artifact of this package; choose another --out"
            )
        else:
            self._is_resumed()
        return None

    def unchanged(self) -> dict[str, Any]:
        """Return the stored result of the artifact to extend: there is nothing to add to it."""
        assert self.extends
        self._clear_finished_work(self.extends)
        return self.extends.stored_result(self.uri)

    def begin(self) -> dict[str, Any] | None:
        """Make the folder ready to be written, unless it holds this artifact: see :meth:`existing`.

        Another artifact and leftovers of a killed run are removed, but leftovers of this very run stay if it
        has a resume key. The files of an artifact that is extended stay, and so do other artifacts below.
        """
        if done := self.existing():
            return done
        location = self._location
        if self.extends:
            self._clear_finished_work(self.extends)
            if not self._is_resumed():
                (location / WORK).remove()
                _remove_unnamed(location, (*self.extends.files, MANIFEST))
        elif (location / MANIFEST).exists() or not self._is_resumed():
            _clear(location)
        with usable_output(location):
            (location / UNFINISHED).write_bytes(json.dumps(self._marker).encode())
        return None

    def publish(
        self, *, fingerprint: str, rows: int, files: Iterable[str], result: dict[str, Any]
    ) -> dict[str, Any]:
        """Write the manifest, which makes the folder an artifact; return the job's result.

        Parts that ``files`` do not name are removed from the tables before: a run that was killed may have
        cut its rows into other parts. An older generation's files stay until the next update.

        Raises:
            LbaeError: Not all of ``files`` are there.
        """
        location, files = self._location, tuple(sorted(files))
        # A listing that shows all that tasks on other nodes wrote also shows what an earlier run left.
        wait_until_visible(location, lambda: _missing(location, files))
        for folder in _TABLES:
            _remove_unnamed(location, files, folder)
        result = {"kind": self.kind, "fingerprint": fingerprint, "rows": rows, **result}
        manifest = Manifest(
            kind=self.kind,
            fingerprint=fingerprint,
            parents=self.parents,
            config=self.config,
            rows=rows,
            files=files,
            result=result,
            generation=self.generation,
        )
        write_manifest(self.uri, manifest)
        (location / UNFINISHED).remove()
        (location / WORK).remove()
        return {"out": absolute(self.uri), **result}

    @property
    def _location(self) -> Location:
        return resolve(self.uri)

    @property
    def _marker(self) -> dict[str, Any]:
        """What the marker says of this run. Versions before wrote the same, so their runs are resumed."""
        run = {"parent": self.parents, "generation": self.generation, "work": self.resume_key or {}}
        return run if self.extends else {"kind": self.kind, **run, **self.config}

    def _check_inputs_lie_elsewhere(self) -> None:
        for uri in self.inputs:
            if uri and self._location.holds(resolve(uri)):
                raise UserError(
                    f"{uri}, which is read, lies in the output {self.uri}, which is cleared; choose another"
                    f" --out"
                )

    def _stored(self, manifest: Manifest) -> dict[str, Any] | None:
        """The stored result if the artifact in the folder is this one; None if it is to be replaced."""
        if self.overwrite:
            return None
        if manifest.kind != self.kind:
            difference = f"(a {self.kind} was to be written)"
        elif changed := changes(
            {"parent": manifest.parents, **manifest.config}, {"parent": self.parents, **self.config}
        ):
            difference = f"made with other options ({changed})"
        else:
            self._clear_finished_work(manifest)
            return manifest.stored_result(self.uri)
        raise OverwriteNeeded(
            f"{self.uri} already holds a {manifest.kind} {difference}; use --overwrite to replace it"
        )

    def _is_resumed(self) -> bool:
        """Whether the leftovers are of this very run; OverwriteNeeded when they are of another one."""
        marker = self._location / UNFINISHED
        if self.resume_key is None or not marker.exists():
            return False
        found = json.loads(marker.read_bytes())
        if found == _CLEARING or (self.extends and found.get("generation", 1) <= self.extends.generation):
            return False
        changed = changes(found, self._marker)
        if changed and not self.overwrite:
            raise OverwriteNeeded(
                f"{self._location} holds an unfinished run with other options ({changed}); give the same ones"
                f" to continue it, or --overwrite to begin anew"
            )
        return not changed

    def _clear_finished_work(self, manifest: Manifest) -> None:
        """Remove what a kill left between the manifest and the end of a run; the work of an update stays."""
        marker = self._location / UNFINISHED
        if marker.exists():
            if json.loads(marker.read_bytes()).get("generation", 1) > manifest.generation:
                return
            marker.remove()
        (self._location / WORK).remove()


def _clear(location: Location) -> None:
    """Remove everything but the marker and other artifacts below."""
    if location.exists():
        (location / UNFINISHED).write_bytes(json.dumps(_CLEARING).encode())
        (location / MANIFEST).remove()
        nested = {name.split("/")[0] for name, _ in location.files() if name.endswith(f"/{MANIFEST}")}
        for name in location.names() - nested - {UNFINISHED}:
            (location / name).remove()
        _remove_unnamed(location, ())


def _missing(location: Location, files: Sequence[str]) -> list[str]:
    """The files that the listings of their folders do not show; those of tables are made anew."""
    found = set()
    for folder in {*_TABLES, *map(posixpath.dirname, files)}:
        (location / folder).refresh()
        if (location / folder).exists():
            found |= {posixpath.join(folder, name) for name in (location / folder).names()}
    return [file for file in files if file not in found]


def _remove_unnamed(location: Location, kept: Iterable[str], folder: str = "") -> None:
    """Remove the files of ``folder`` that are not among ``kept``, except other artifacts below."""
    below, kept = location / folder, frozenset(kept)
    found = [name for name, _ in below.files(temporary=True)] if below.exists() else []
    nested = tuple(name.removesuffix(MANIFEST) for name in found if name.endswith(f"/{MANIFEST}"))
    for name in found:
        if posixpath.join(folder, name) not in kept and not name.startswith(nested):
            (below / name).remove()
