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

from lbae.errors import LbaeError, TransientStorageError, UserError
from lbae.transient_errors import is_transient

_UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


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
        """Whether the other location is this one or lies below it."""
        own, its = (os.path.realpath(one.path) if one.is_local else str(one) for one in (self, other))
        return f"{its}/".startswith(f"{own}/")

    def exists(self) -> bool:
        """Whether there is a file or folder here; LbaeError when the storage does not say."""
        return self._kind() is not None

    def is_file(self) -> bool:
        """Whether there is a file here."""
        return self._kind() == "file"

    def _kind(self) -> str | None:
        """``file``, ``directory`` or None. ``fs.exists`` would say no where a bucket cannot be reached."""
        with _storage_errors(self, "reached"):
            try:
                return str(self.fs.info(self.path)["type"])
            except (FileNotFoundError, NotADirectoryError):
                return None

    def is_empty_folder(self) -> bool:
        """Whether this is a folder that holds nothing but leftovers of this package and of NFS."""
        if self.is_file():
            return False
        return all(_is_temporary(name) or _is_kept_by_nfs(name) for name in self.names())

    def refresh(self) -> None:
        """Make this machine forget what it knows of the folder: a network mount may have cached old names.

        A client that changes a folder itself, if only its time, asks the server for it anew.
        """
        if self.is_local:
            with contextlib.suppress(OSError):  # there is no such folder, or it is another user's
                os.utime(self.path)
        self.fs.invalidate_cache()

    def names(self) -> set[str]:
        """Names of the files and folders in this folder."""
        with _storage_errors(self, "listed"):
            return {posixpath.basename(str(path).rstrip("/")) for path in self.fs.ls(self.path, detail=False)}

    def open(self) -> IO[bytes]:
        """The file for reading; FileNotFoundError when there is none."""
        with _storage_errors(self, "read", FileNotFoundError, IsADirectoryError):
            return self.fs.open(self.path, "rb")

    def read_bytes(self) -> bytes:
        """The file's content; FileNotFoundError when there is none."""
        with _storage_errors(self, "read", FileNotFoundError, IsADirectoryError):
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
            except BaseException as error:
                temporary.unlink(missing_ok=True)
                if isinstance(error, OSError) and error.errno and error.filename is None:  # as of a full disk
                    raise OSError(error.errno, error.strerror, self.path) from error
                raise
        else:
            with _storage_errors(self, "written"):
                self.fs.pipe_file(self.path, data)

    def create(self, data: bytes) -> bool:
        """Write the file if there is none, and return whether it was written.

        On a local disk a reader may find the new file empty for a moment: hard links would prevent that, but
        many network and FUSE mounts do not support them.
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
        except Exception as error:  # the libraries behind a filesystem share no base class
            if isinstance(error, OSError) and self.is_local:
                raise
            if "PreconditionFailed" in repr(error) or "ConditionalRequestConflict" in repr(error):
                return False
            raise _storage_error(self, "written", error) from error
        return True

    def _make_parent(self) -> None:
        try:
            self.fs.makedirs(posixpath.dirname(self.path), exist_ok=True)
        except FileExistsError as error:  # create() must not take it for the file itself
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", posixpath.dirname(self.path)) from error

    def remove(self) -> None:
        """Delete the file or folder, if there is one; LbaeError when something stays."""
        if self.is_local and os.path.isdir(self.path):
            # fsspec's own would fail where the working folder of a submitted job was created anew.
            shutil.rmtree(self.path, onerror=_pass_over_leftovers)
        elif self.is_local:  # without a look before: it may be late
            if not _is_kept_by_nfs(self.name):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    os.unlink(self.path)
        elif self.exists():
            with _storage_errors(self, "removed"), contextlib.suppress(FileNotFoundError):
                self.fs.rm(self.path, recursive=True)
            self.fs.invalidate_cache()
            if self.exists():  # S3 answers 200 and names the keys it kept, which s3fs ignores
                raise LbaeError(
                    f"{self} cannot be removed: files are still there after the storage was asked to delete"
                    f" them; allow deleting there (s3:DeleteObject, no Object Lock), or use a storage that"
                    f" shows removals at once, and run the job again"
                )

    def files(self, temporary: bool = False) -> list[tuple[str, dict[str, Any]]]:
        """All files below, as (path relative to this folder, info), sorted.

        Hidden files, and those in hidden folders, are left out; ``temporary`` includes what a killed
        :meth:`write_bytes` left.
        """
        root = self.path.rstrip("/") + "/"
        with _storage_errors(self, "listed"):
            listed = self.fs.find(self.path, detail=True)
        found = []
        for path, info in listed.items():
            name = path[len(root) :]
            hidden = any(part.startswith(".") for part in name.split("/"))
            if name and (not hidden or (temporary and _is_temporary(posixpath.basename(name)))):
                found.append((name, info))
        return sorted(found, key=lambda item: item[0])


@contextlib.contextmanager
def _storage_errors(location: Location, verb: str, *passed: type[OSError]) -> Iterator[None]:
    """Turn what the libraries behind a filesystem raise into errors that name the location.

    The local disk's OSErrors stay: they name the file, and their numbers tell a full disk from a broken one.
    """
    try:
        yield
    except passed:
        raise
    except Exception as error:
        if isinstance(error, OSError) and location.is_local:
            raise
        raise _storage_error(location, verb, error) from error


@contextlib.contextmanager
def usable_output(location: Location) -> Iterator[None]:
    """Turn an OSError of the body into a UserError where no file can be written at a local path.

    Other failures, such as a full disk, stay as they are.
    """
    try:
        yield
    except OSError as error:
        if not location.is_local or error.errno not in _UNUSABLE:
            raise
        place = location.path
        while not os.path.lexists(place):
            place = posixpath.dirname(place)
        if error.errno == errno.EISDIR:
            why = "it is a folder"
        elif os.path.isdir(place):
            why = f"nothing can be created in {place} ({error.strerror})"
        else:
            why = f"{place} is no folder"
        raise UserError(f"the output {location} cannot be written: {why}; choose another path") from error


def _storage_error(location: Location, verb: str, error: Exception) -> LbaeError:
    kind = TransientStorageError if is_transient(error) else LbaeError
    return kind(f"{location} cannot be {verb}: {error}")


def _temporary(name: str) -> str:
    """A name that readers of folders skip, for a file that is being written."""
    return f".{name}.{uuid.uuid4().hex}.tmp"


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def _is_kept_by_nfs(name: str) -> bool:
    """Whether this is a removed file that NFS keeps, under a hidden name, while a process has it open."""
    return name.startswith(".nfs")


def _pass_over_leftovers(_: object, path: str, raised: Any) -> None:
    """For ``shutil.rmtree``: pass over names that are gone, files that NFS keeps, and their folders."""
    below = [name for _, _, names in os.walk(path) for name in names] or [posixpath.basename(path)]
    if not isinstance(raised[1], FileNotFoundError) and not all(map(_is_kept_by_nfs, below)):
        raise raised[1]


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
    """The user's folder for what can be downloaded or computed again."""
    return Path.home() / ".cache" / "lbae"


def cache_folder() -> Location:
    """The folder of LBAE_CACHE, a URI that all nodes reach, else the user's own; created if it is local.

    UserError when it cannot be: whoever computes for the cache should not learn so at the end.
    """
    folder = resolve(os.environ.get("LBAE_CACHE") or str(local_cache()))
    if folder.is_local:
        try:
            os.makedirs(folder.path, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"the cache {folder} cannot be created ({error}); set LBAE_CACHE to a folder that can be"
                f" written"
            ) from error
    return folder


def absolute(uri: str) -> str:
    """The URI with an absolute path if it is local: workers run in other directories."""
    return str(resolve(uri))


def arrow_filesystem(uri: str) -> tuple[pa.fs.FileSystem | None, str]:
    """pyarrow's filesystem for a URI, None for the local one, and the path in it."""
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
