"""Local files and folders as jobs list and delete them: links to folders are not followed."""

import contextlib
import math
import os
import posixpath
import shutil
import stat
from collections.abc import Iterator
from typing import Any

from lbae.errors import UserError


def files_below(folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the path and the size of every file in a folder and its subfolders; none if it does not exist.

    Links to folders are left out, because their files are another folder's.
    """
    for here, _, names in os.walk(folder, onerror=_raise_unless_missing):
        for name in names:
            path = posixpath.join(here, name)
            with contextlib.suppress(FileNotFoundError):  # removed since the scan
                yield path, {"size": os.lstat(path).st_size}


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def check_regular(path: str, most: float = math.inf) -> int:
    """The size of a file in bytes, as the system gives it.

    Raises UserError if it is more than ``most``, or for a device or a pipe, which may not end.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):  # reading a folder is an error
        raise UserError(f"{path} is a device or a pipe; allowed: a file")
    if found.st_size > most:
        raise UserError(f"{path} has {found.st_size} bytes; allowed: at most {most:.0f}")
    return found.st_size


def remove(path: str) -> None:
    """Delete a file, a link or a folder with everything in it; what links lead to stays."""
    if os.path.isdir(path) and not os.path.islink(path):
        # fsspec's rm() fails if the working folder of a submitted job has been recreated.
        shutil.rmtree(path, onerror=_pass_over_leftovers)
    elif not is_kept_by_nfs(posixpath.basename(path)):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(path)


def is_kept_by_nfs(name: str) -> bool:
    """Whether NFS gave this name to a removed file that a process still has open."""
    return name.startswith(".nfs")


def _pass_over_leftovers(_: object, path: str, raised: Any) -> None:
    """For ``shutil.rmtree``: ignore missing names, files that NFS keeps, and the folders that hold those."""
    below = [name for _, _, names in os.walk(path) for name in names] or [posixpath.basename(path)]
    if not isinstance(raised[1], FileNotFoundError) and not all(map(is_kept_by_nfs, below)):
        raise raised[1]
