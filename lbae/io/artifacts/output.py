"""The output folder of a job: find a finished artifact, begin a new one, resume, publish.

While a job writes, a hidden marker says which artifact the folder will become. A job that runs again after a
kill finds the marker. It then resumes its own work or clears leftovers of other runs; it never touches files
that no lbae job wrote, nor files that links lead to.
"""

import json
import posixpath
from collections.abc import Collection, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from lbae.errors import OverwriteNeeded, UserError
from lbae.io.artifacts.manifest import MANIFEST, Manifest, changes, read_manifest, write_manifest
from lbae.io.storage.hub import is_repository
from lbae.io.storage.json_file import read_object
from lbae.io.storage.location import Location, absolute, resolve, usable_output
from lbae.io.storage.visibility import wait_until_visible

UNFINISHED = ".unfinished"
"""The marker file of an unfinished output: it says which run began the folder, so that run can resume."""
WORK = "_work"
"""Folder of earlier versions' intermediate files. No job reads it, and it is cleared like other leftovers."""
# The marker's content while a folder is cleared. After a kill, such a folder belongs to no run: any job may
# clear the rest.
_CLEARING = {"clearing": True}
# Parquet readers read every file of these folders, so no stray file may remain in them.
_TABLES = ("data", "quarantine")


@dataclass(frozen=True)
class Output:
    """The artifact that a job will write to the folder ``uri``.

    Args:
        uri: The output folder.
        kind: Kind of the artifact, such as ``latent table``.
        parents: Fingerprints of the artifact's inputs, by role.
        config: The options that the artifact's content depends on.
        inputs: URIs that the job reads. None may lie in the output folder, because the folder is cleared.
        resume_key: What finished work depends on besides parents and config, such as the shard sizes. None
            for a job that cannot resume and always starts over.
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

    def __post_init__(self) -> None:
        if is_repository(self.uri):
            raise UserError(
                f"{self.uri} cannot be written by this job, because the Hub takes an artifact in one commit;"
                f" give --out a folder or bucket, then run `lbae push`"
            )

    @property
    def generation(self) -> int:
        """1 for a new artifact; one more than the generation of the artifact that is extended."""
        return self.extends.generation + 1 if self.extends else 1

    def existing(self) -> dict[str, Any] | None:
        """Return the stored result if the folder already holds this artifact, else None.

        None is also returned if ``overwrite`` is set or an artifact is extended. Only the leftovers of a
        finished run are removed. A job that may fail before it writes calls this first, and :meth:`begin`
        later.

        Raises:
            UserError: An input lies in the folder, the folder holds files that no lbae job wrote, or a folder
                that the job clears is a link.
            OverwriteNeeded: The folder holds another artifact, or another unfinished run that could resume.
        """
        self._check_inputs_lie_elsewhere()
        location = self._location
        location.refresh()  # another machine may have published here a moment ago
        if self.extends:
            self._is_resumed()
        elif (location / MANIFEST).exists():
            if done := self._stored(read_manifest(self.uri)):
                return done
        elif location.exists() and not (location / UNFINISHED).exists() and not location.is_empty_folder():
            raise UserError(
                f"{self.uri} already exists and was not written by an lbae job; choose another --out"
            )
        else:
            self._is_resumed()
        for folder in (*_TABLES, WORK):
            _refuse_link(location / folder)
        return None

    def unchanged(self) -> dict[str, Any]:
        """Return the stored result of the artifact to extend, when there is nothing to add to it."""
        assert self.extends
        self._clear_finished_work(self.extends)
        return self.extends.stored_result(self.uri)

    def begin(self) -> dict[str, Any] | None:
        """Prepare the folder for writing; return the stored result instead if it already holds this artifact.

        Another artifact and leftovers of other runs are removed. Finished work of this same run is kept if
        there is a resume key. The files of an artifact that is extended and artifacts in subfolders are kept.
        Raises the errors of :meth:`existing`.
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

        Table parts that ``files`` does not name are removed first: leftovers of killed runs, and parts
        without rows. Outside the table folders, files of an older generation stay until the next update.

        Raises:
            LbaeError: Some of ``files`` are missing.
        """
        location, files = self._location, tuple(sorted(files))
        # A listing that shows all files written on other nodes also shows the leftovers of earlier runs.
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
        """The marker's content for this run. Do not change it: runs begun by older versions must resume."""
        run = {"parent": self.parents, "generation": self.generation, "work": self.resume_key or {}}
        return run if self.extends else {"kind": self.kind, **run, **self.config}

    def _check_inputs_lie_elsewhere(self) -> None:
        for uri in self.inputs:
            if uri and self._location.holds(resolve(uri)):
                raise UserError(
                    f"the input {uri} lies in the output {self.uri}, which this job clears; choose another"
                    f" --out"
                )

    def _stored(self, manifest: Manifest) -> dict[str, Any] | None:
        """The stored result if the folder's artifact is this one; None if ``overwrite`` replaces it."""
        if self.overwrite:
            return None
        if manifest.kind != self.kind:
            difference = f"(this job writes a {self.kind})"
        elif changed := changes(
            {"parent": manifest.parents, **manifest.config}, {"parent": self.parents, **self.config}
        ):
            difference = f"made from different inputs or options ({changed})"
        else:
            self._clear_finished_work(manifest)
            return manifest.stored_result(self.uri)
        raise OverwriteNeeded(
            f"{self.uri} already holds a {manifest.kind} {difference}; use --overwrite to replace it"
        )

    def _is_resumed(self) -> bool:
        """Whether the leftovers belong to this same run; raises OverwriteNeeded if they belong to another."""
        marker = self._location / UNFINISHED
        if self.resume_key is None or not marker.exists():
            return False
        found = read_object(marker)
        if found == _CLEARING or (self.extends and _generation(found) <= self.extends.generation):
            return False
        changed = changes(found, self._marker)
        if changed and not self.overwrite:
            raise OverwriteNeeded(
                f"{self._location} holds an unfinished run with different inputs or options ({changed}); give"
                f" the same ones to resume it, or --overwrite to start over"
            )
        return not changed

    def _clear_finished_work(self, manifest: Manifest) -> None:
        """Remove what a kill after writing the manifest left; keep the work of an unfinished update."""
        marker = self._location / UNFINISHED
        if marker.exists():
            if _generation(read_object(marker)) > manifest.generation:
                return
            marker.remove()
        (self._location / WORK).remove()


def _generation(marker: dict[str, Any]) -> int:
    """The generation that a marker names; 1 in markers of older versions, and if it is no number."""
    found = marker.get("generation")
    return found if isinstance(found, int) else 1


def _refuse_link(folder: Location) -> None:
    if folder.is_linked_folder:
        raise UserError(
            f"{folder} is a link to a folder; a job clears this folder, and deletes nothing through links:"
            f" remove the link, or choose another --out"
        )


def _clear(location: Location) -> None:
    """Remove everything but the marker, the artifacts in subfolders, and links to folders."""
    if location.exists():
        (location / UNFINISHED).write_bytes(json.dumps(_CLEARING).encode())
        (location / MANIFEST).remove()
        nested = {name.split("/")[0] for name, _ in location.files() if name.endswith(f"/{MANIFEST}")}
        for name in location.names() - nested - {UNFINISHED}:
            if not (location / name).is_linked_folder:
                (location / name).remove()
        _remove_unnamed(location, ())


def _missing(location: Location, files: Sequence[str]) -> list[str]:
    """The files that the listings of their folders do not show; the listings are refreshed first."""
    found = set()
    for folder in {*_TABLES, *map(posixpath.dirname, files)}:
        (location / folder).refresh()
        if (location / folder).exists():
            found |= {posixpath.join(folder, name) for name in (location / folder).names()}
    return [file for file in files if file not in found]


def _remove_unnamed(location: Location, kept: Iterable[str], folder: str = "") -> None:
    """Remove the files of ``folder`` that ``kept`` does not name, except artifacts in subfolders."""
    below, kept = location / folder, frozenset(kept)
    if folder:  # the output's own folder may be a link
        _refuse_link(below)
    found = [name for name, _ in below.files(temporary=True)] if below.exists() else []
    nested = tuple(name.removesuffix(MANIFEST) for name in found if name.endswith(f"/{MANIFEST}"))
    for name in found:
        if posixpath.join(folder, name) not in kept and not name.startswith(nested):
            (below / name).remove()
