"""One resolver for every URI: local paths, ``s3://`` and whatever else fsspec knows."""

import contextlib
import errno
import os
import posixpath
import shutil
import tomllib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.fs
from fsspec.core import url_to_fs

from lbae.errors import LbaeError, UserError


@dataclass(frozen=True)
class Location:
    """A file or folder on a filesystem; ``location / "name"`` goes down."""

    fs: fsspec.AbstractFileSystem
    path: str

    def __truediv__(self, name: str) -> "Location":
        return Location(self.fs, posixpath.join(self.path, name))

    def __str__(self) -> str:
        return self.path if self.is_local else str(self.fs.unstrip_protocol(self.path))

    @property
    def name(self) -> str:
        """Last part of the path."""
        return posixpath.basename(self.path.rstrip("/"))

    @property
    def is_local(self) -> bool:
        """Whether this is on a filesystem of the machine's own."""
        return "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))

    def holds(self, other: "Location") -> bool:
        """Whether the other place is this one or lies below it."""
        own, its = (os.path.realpath(place.path) if place.is_local else str(place) for place in (self, other))
        return f"{its}/".startswith(f"{own}/")

    def exists(self) -> bool:
        """Whether there is a file or folder here; LbaeError when nobody can say, as of a bucket that does not
        answer.
        """
        return self._kind() is not None

    def is_file(self) -> bool:
        """Whether there is a file here."""
        return self._kind() == "file"

    def _kind(self) -> str | None:
        """What is here: file, directory or nothing. Not by ``fs.exists``, which takes a bucket out of reach
        for none.
        """
        with _named(self, "reached"):
            try:
                return str(self.fs.info(self.path)["type"])
            except (FileNotFoundError, NotADirectoryError):
                return None

    def is_empty_folder(self) -> bool:
        """Whether there is a folder here with nothing in it but what a killed :meth:`write_bytes` left."""
        if self.is_file():
            return False
        return all(_is_temporary(name) for name in self.names())

    def names(self) -> set[str]:
        """Names of all that lies in this folder itself."""
        with _named(self, "listed"):
            return {posixpath.basename(str(path).rstrip("/")) for path in self.fs.ls(self.path, detail=False)}

    def open(self) -> IO[bytes]:
        """The file for reading; FileNotFoundError when there is none."""
        with _named(self, "read", FileNotFoundError, IsADirectoryError):
            return self.fs.open(self.path, "rb")

    def read_bytes(self) -> bytes:
        """The file's content; FileNotFoundError when there is none."""
        with _named(self, "read", FileNotFoundError, IsADirectoryError):
            return bytes(self.fs.cat_file(self.path))

    def write_bytes(self, data: bytes) -> None:
        """Write the file whole or not at all: by rename on a local disk, by one request on object stores."""
        if self.is_local:
            self._make_parent()
            temporary = Path(posixpath.dirname(self.path), _temporary(self.name))
            try:
                with temporary.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, self.path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        else:
            with _named(self, "written"):
                self.fs.pipe_file(self.path, data)

    def create(self, data: bytes) -> bool:
        """Write the file if there is none; whether it was written. LbaeError when the storage refuses.

        On a local disk a reader may find the new file empty for a moment: hard links, which could prevent
        that, are unknown to many network and FUSE mounts.
        """
        try:
            if self.is_local:
                self._make_parent()
                with open(self.path, "xb") as file:
                    file.write(data)
            else:
                self.fs.pipe_file(self.path, data, mode="create")
        except FileExistsError:
            return False
        except Exception as error:  # whatever the libraries behind a filesystem raise
            if "PreconditionFailed" in repr(error) or "ConditionalRequestConflict" in repr(error):
                return False
            raise LbaeError(f"{self} cannot be written: {error}") from error
        return True

    def _make_parent(self) -> None:
        try:
            self.fs.makedirs(posixpath.dirname(self.path), exist_ok=True)
        except FileExistsError as error:  # which must not be taken for the file itself
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", posixpath.dirname(self.path)) from error

    def remove(self) -> None:
        """Delete the file, or the folder and all it holds; nothing when there is none. LbaeError when
        something stays.
        """
        if self.is_local and os.path.isdir(self.path):
            shutil.rmtree(
                self.path
            )  # fsspec's would fail where the working folder of a submitted job was made anew
        elif self.exists():
            with _named(self, "removed"), contextlib.suppress(FileNotFoundError):
                self.fs.rm(self.path, recursive=True)
            self.fs.invalidate_cache()
            if self.exists():  # S3 answers 200 and names the keys that it kept, which s3fs does not look at
                raise LbaeError(
                    f"{self} cannot be removed: files are still there after the storage was asked to delete"
                    f" them; allow"
                    " deleting there (s3:DeleteObject, no Object Lock) and run the job again"
                )

    def files(self, temporary: bool = False) -> list[tuple[str, dict[str, Any]]]:
        """All files below, as (path relative to this folder, info), sorted.

        Those in or with a name after a dot are left out, but for what a killed :meth:`write_bytes` left, if
        ``temporary``.
        """
        root = self.path.rstrip("/") + "/"
        with _named(self, "listed"):
            listed = self.fs.find(self.path, detail=True)
        found = []
        for path, info in listed.items():
            name = path[len(root) :]
            hidden = any(part.startswith(".") for part in name.split("/"))
            if name and (not hidden or (temporary and _is_temporary(posixpath.basename(name)))):
                found.append((name, info))
        return sorted(found, key=lambda item: item[0])


@contextlib.contextmanager
def _named(place: Location, verb: str, *passed: type[OSError]) -> Iterator[None]:
    """Turn what the libraries behind a filesystem raise into LbaeError that names the place.

    The local disk's OSErrors stay as they are: they name the file, and their numbers tell a full disk from a
    broken one.
    """
    try:
        yield
    except passed:
        raise
    except Exception as error:
        if isinstance(error, OSError) and place.is_local:
            raise
        raise LbaeError(f"{place} cannot be {verb}: {error}") from error


def _temporary(name: str) -> str:
    """A name that no reader of folders looks at, for a file that is being written."""
    return f".{name}.{uuid.uuid4().hex}.tmp"


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def resolve(uri: str) -> Location:
    """The location a URI names; UserError for a protocol without a filesystem."""
    if not uri:
        raise UserError("an empty URI was given; give a path or a URI such as s3://bucket/folder")
    try:
        fs, path = url_to_fs(uri, use_listings_cache=False) if "://" in uri else url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise UserError(f"no filesystem for {uri!r}: {error}") from error
    fs.invalidate_cache()
    return Location(fs, path.rstrip("/") or path)


def local_cache() -> Path:
    """The user's folder for what can be had or made again."""
    return Path.home() / ".cache" / "lbae"


def cache_folder() -> Location:
    """Where such things lie for all nodes: LBAE_CACHE, a URI, else the user's folder."""
    return resolve(os.environ.get("LBAE_CACHE") or str(local_cache()))


def absolute(uri: str) -> str:
    """The URI with a local path made absolute, as workers on other directories need it."""
    return str(resolve(uri))


def arrow_filesystem(uri: str) -> tuple[pa.fs.FileSystem | None, str]:
    """A place for libraries that ask for a filesystem of pyarrow: this resolver's, None for the local one,
    and the path.
    """
    location = resolve(uri)
    return None if location.is_local else pa.fs.PyFileSystem(pa.fs.FSSpecHandler(location.fs)), location.path


def readable(uri: str, what: str) -> Location:
    """The location of something that must exist."""
    location = resolve(uri)
    if not location.exists():
        raise UserError(f"{what} {uri} does not exist")
    return location


def read_toml(uri: str) -> dict[str, Any]:
    """The content of a TOML file; UserError when it is none."""
    try:
        return tomllib.loads(readable(uri, "file").read_bytes().decode())
    except ValueError as error:
        raise UserError(f"{uri} is not TOML: {error}") from error
