"""Files and folders by URI: local paths, ``s3://`` and every other protocol that fsspec has."""

import contextlib
import errno
import os
import posixpath
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
from lbae.io.storage import local_files
from lbae.transient_errors import is_transient

_UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


@dataclass(frozen=True)
class Location:
    """A file or folder on a filesystem; ``location / "name"`` is an entry of the folder."""

    fs: fsspec.AbstractFileSystem
    path: str

    def __truediv__(self, name: str) -> "Location":
        return Location(self.fs, posixpath.join(self.path, name))

    def __str__(self) -> str:
        return self.path if self.is_local else str(self.fs.unstrip_protocol(self.path))

    @property
    def name(self) -> str:
        """The last part of the path."""
        return posixpath.basename(self.path.rstrip("/"))

    @property
    def is_local(self) -> bool:
        """Whether this is a path of the operating system; network mounts count as local."""
        return "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))

    def holds(self, other: "Location") -> bool:
        """Whether the other location is this one or lies below it."""
        own, its = (os.path.realpath(one.path) if one.is_local else str(one) for one in (self, other))
        return f"{its}/".startswith(f"{own}/")

    def exists(self) -> bool:
        """Whether there is a file or folder here; raises LbaeError if the storage cannot tell."""
        return self._kind() is not None

    def is_file(self) -> bool:
        """Whether there is a file here."""
        return self._kind() == "file"

    def _kind(self) -> str | None:
        """``file``, ``directory`` or None. Not ``fs.exists``: it returns False for an unreachable bucket."""
        with _storage_errors(self, "reached"):
            try:
                return str(self.fs.info(self.path)["type"])
            except (FileNotFoundError, NotADirectoryError):
                return None

    @property
    def is_linked_folder(self) -> bool:
        """Whether this is a link to a folder, whose files belong to that folder; local paths only."""
        return self.is_local and os.path.islink(self.path) and os.path.isdir(self.path)

    def is_empty_folder(self) -> bool:
        """Whether this is a folder that holds at most temporary files of this package and of NFS."""
        if self.is_file():
            return False
        return all(_is_temporary(name) or local_files.is_kept_by_nfs(name) for name in self.names())

    def refresh(self) -> None:
        """Drop cached listings of the folder, including those of a network mount.

        A network client that changes a folder, here its time, fetches the folder from the server again.
        """
        if self.is_local:
            with contextlib.suppress(OSError):  # the folder does not exist, or belongs to another user
                os.utime(self.path)
        self.fs.invalidate_cache()

    def names(self) -> set[str]:
        """Names of the files and folders in this folder."""
        with _storage_errors(self, "listed"):
            return {posixpath.basename(str(path).rstrip("/")) for path in self.fs.ls(self.path, detail=False)}

    def matching_folders(self) -> list["Location"]:
        """The folders whose paths match the wildcards of this path (``*``, ``?``, ``[...]``), sorted.

        Hidden folders are left out.
        """
        with _storage_errors(self, "listed"):
            found = self.fs.glob(self.path, detail=True)
        folders = (Location(self.fs, path) for path, info in sorted(found.items()) if info["type"] != "file")
        return [folder for folder in folders if not folder.name.startswith(".")]

    def open(self) -> IO[bytes]:
        """Open the file for reading.

        Raises:
            FileNotFoundError: There is no file.
            UserError: This is a local device or pipe.
        """
        with _storage_errors(self, "read", FileNotFoundError, IsADirectoryError, UserError):
            if self.is_local:
                local_files.check_regular(self.path)
            return self.fs.open(self.path, "rb")

    def read_bytes(self, *, most: int | None = None) -> bytes:
        """The file's content.

        Raises:
            FileNotFoundError: There is no file.
            UserError: ``most`` is given, and the file has more bytes or is a local device or pipe.
        """
        with _storage_errors(self, "read", FileNotFoundError, IsADirectoryError, UserError):
            if most is not None and self.is_local:
                size = local_files.check_regular(self.path, most)
                with open(self.path, "rb") as file:
                    data = file.read(size + 1)
                    if len(data) > size:  # files of /proc have size 0, and other files may grow
                        data += file.read(most + 1 - len(data))
            else:
                data = bytes(self.fs.cat_file(self.path, end=None if most is None else most + 1))
        if most is not None and len(data) > most:
            raise UserError(f"{self} has more than {most} bytes; allowed: at most {most}")
        return data

    def write_bytes(self, data: bytes) -> None:
        """Write the file atomically: by rename on a local disk, in one request on an object store."""
        if self.is_local:
            with self.writing() as file:
                file.write(data)
        else:
            with _storage_errors(self, "written"):
                self.fs.pipe_file(self.path, data)

    @contextlib.contextmanager
    def writing(self) -> Iterator[IO[bytes]]:
        """Open the file for writing in pieces, so that it need not fit in memory.

        On a local disk the file appears whole, by rename, when the body has ended without an error. An object
        store may show a part of it after an error.
        """
        if not self.is_local:
            with _storage_errors(self, "written", LbaeError), self.fs.open(self.path, "wb") as file:
                yield file
            return
        self._make_parent()
        temporary = Path(posixpath.dirname(self.path), _temporary(self.name))
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            # Errors of writes, such as those of a full disk, do not name their file.
            if isinstance(error, OSError) and error.errno and error.filename is None:
                raise OSError(error.errno, error.strerror, self.path) from error
            raise

    def create(self, data: bytes) -> bool:
        """Create the file exclusively; return False if it already exists.

        On a local disk, a reader may see the new file empty for a moment. Hard links would prevent that, but
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
        except FileExistsError as error:  # create() would read this as "the file already exists"
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", posixpath.dirname(self.path)) from error

    def remove(self) -> None:
        """Delete the file, link or folder if it exists; what links lead to stays.

        Raises:
            LbaeError: The storage kept something.
        """
        if self.is_local:
            local_files.remove(self.path)
        elif self.exists():
            with _storage_errors(self, "removed"), contextlib.suppress(FileNotFoundError):
                self.fs.rm(self.path, recursive=True)
            self.fs.invalidate_cache()
            if self.exists():  # S3 answers 200 and lists the keys that it kept; s3fs ignores that list
                raise LbaeError(
                    f"{self} cannot be removed: the storage accepted the deletion, but files are still there;"
                    f" allow deletion (s3:DeleteObject, no Object Lock), or use a storage that shows"
                    f" deletions at once, then run the job again"
                )

    def files(self, temporary: bool = False) -> list[tuple[str, dict[str, Any]]]:
        """All files in the folder and its subfolders, as sorted pairs (relative path, info).

        Hidden files, files in hidden folders and local links to folders are left out. With ``temporary``, the
        temporary files of a killed :meth:`write_bytes` are included.
        """
        root = self.path.rstrip("/") + "/"
        with _storage_errors(self, "listed"):
            listed = (
                local_files.files_below(self.path)
                if self.is_local
                else self.fs.find(self.path, detail=True).items()
            )
        found = []
        for path, info in listed:
            name = path[len(root) :]
            hidden = any(part.startswith(".") for part in name.split("/"))
            if name and (not hidden or (temporary and _is_temporary(posixpath.basename(name)))):
                found.append((name, info))
        return sorted(found, key=lambda item: item[0])


@contextlib.contextmanager
def _storage_errors(location: Location, verb: str, *passed: type[Exception]) -> Iterator[None]:
    """Convert exceptions of the filesystem libraries into errors that name the location.

    OSErrors of the local disk stay OSErrors that name the file: ``errno`` tells a full disk from a broken
    one.
    """
    try:
        yield
    except passed:
        raise
    except Exception as error:
        if isinstance(error, OSError) and location.is_local:
            if error.errno and error.filename is None:  # errors of reads do not name their file
                raise OSError(error.errno, error.strerror, location.path) from error
            raise
        raise _storage_error(location, verb, error) from error


@contextlib.contextmanager
def usable_output(location: Location) -> Iterator[None]:
    """Convert an OSError of the body into a UserError if the local path cannot hold a file.

    Other failures, such as a full disk, pass unchanged.
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
            why = f"{place} is not a folder"
        raise UserError(f"the output {location} cannot be written: {why}; choose another path") from error


def _storage_error(location: Location, verb: str, error: Exception) -> LbaeError:
    kind = TransientStorageError if is_transient(error) else LbaeError
    return kind(f"{location} cannot be {verb}: {error}")


def _temporary(name: str) -> str:
    """A hidden name for a file that is being written; readers of folders skip it."""
    return f".{name}.{uuid.uuid4().hex}.tmp"


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def resolve(uri: str) -> Location:
    """The location of a URI; raises UserError if no filesystem handles its protocol."""
    if not uri:
        raise UserError("an empty URI was given; give a path or a URI such as s3://bucket/folder")
    try:
        fs, path = url_to_fs(uri, use_listings_cache=False) if "://" in uri else url_to_fs(uri)
    except (ValueError, ImportError) as error:
        extra = "; pip install 'lbae[hf]'" if uri.startswith("hf://") else ""
        raise UserError(f"no filesystem for {uri!r}: {error}{extra}") from error
    fs.invalidate_cache()
    return Location(fs, path.rstrip("/") or path)


def absolute(uri: str) -> str:
    """The URI, with an absolute path if it is local, because workers run in other folders."""
    return str(resolve(uri))


def arrow_filesystem(uri: str) -> tuple[pa.fs.FileSystem | None, str]:
    """pyarrow's filesystem for a URI (None for local files) and the path in that filesystem."""
    location = resolve(uri)
    return None if location.is_local else pa.fs.PyFileSystem(pa.fs.FSSpecHandler(location.fs)), location.path


def readable(uri: str, what: str) -> Location:
    """The location of ``uri``; raises UserError, which calls it ``what``, if it does not exist."""
    location = resolve(uri)
    if not location.exists():
        raise UserError(f"{what} {uri} does not exist")
    return location
