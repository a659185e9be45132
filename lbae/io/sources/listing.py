"""Listing a source: the kind of its files, the files that are read, and counts of those left out.

All files that are read are of one kind. Files that cannot hold images are left out and counted by suffix.
"""

import contextlib
import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from lbae.errors import UserError
from lbae.io.artifacts.manifest import MANIFEST
from lbae.io.artifacts.output import WORK
from lbae.io.image_formats import MAX_FILE_BYTES
from lbae.io.images import image_size
from lbae.io.sources import parquet
from lbae.io.storage.location import Location, resolve

Kind = Literal["table", "tars", "files"]
Files = dict[str, dict[str, Any]]
"""The filesystem's info of files, by their paths relative to the root."""

# Also of formats that are not decoded: their files are images, and go to the quarantine.
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2")
_MORE_IMAGES = (".jfif", ".pbm", ".pnm", ".tga", ".ico", ".heic", ".heif")  # not recognised in tars
_NO_IMAGES = re.compile(
    r"\.(txt|caption|md|rst|json|jsonl|csv|tsv|xml|yaml|yml|toml|cfg|ini|log|html|htm|css|js|pdf|docx?|xlsx?"
    r"|py|ipynb|sh|m|mat|npy|npz|pkl|pt|pth|safetensors|h5|hdf5|arrow|db|sqlite|lock|crc|md5|sha256"
    r"|mp3|wav|mp4|mov|avi|mkv|webm|zip|gz|tgz|bz2|xz|zst|7z|rar)"
)
_NO_IMAGE_NAMES = frozenset(("license", "licence", "readme", "changelog", "makefile", "_success", "icon\r"))
_PACKED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_MACOS = "__MACOSX"
HIDDEN, _LOOPS, _SPECIAL = "hidden", "links to a folder above", "no regular files"
_REPEATED = "folders that many links lead to"
_MOST_VISITS = 64  # links in linked folders can lead to one folder in exponentially many ways
_PROBED = 16  # among files without a known suffix, so many are opened to see if one is an image
_THREADS = 16

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files that a source is read from, and their kind.

    ``named``: the kind according to the files' suffixes. ``skipped``: counts by suffix of files that are not
    read; hidden files are counted on local disks only.
    """

    root: str
    kind: Kind
    named: Kind
    files: Files
    skipped: Counter[str] = field(default_factory=Counter)


def list_source(location: Location, asked: Kind | None) -> Listing:
    """List a file, or a folder and its subfolders; links to folders are followed.

    ``asked`` chooses the kind of files to read; None finds it from the files.

    Raises:
        UserError: The folder holds no images, or images of several kinds without ``asked``.
    """
    if location.is_file():
        root, skipped = posixpath.dirname(str(location)), Counter[str]()
        found: Files = {location.name: location.fs.info(location.path)}
    else:
        root = str(location)
        found, skipped = _walk(location.path) if location.is_local else (dict(location.files()), Counter())
        if MANIFEST in found:  # an image table of this package: its quarantine holds no images
            apart = (MANIFEST, "quarantine/", f"{WORK}/")
            found = {name: info for name, info in found.items() if not name.startswith(apart)}
    by_kind = _by_kind(found)
    first: Kind = next((kind for kind, files in by_kind.items() if files), "files")
    kind = asked or _kind_of(root, by_kind)
    files = by_kind[kind] or found
    if kind == "files":
        files = {name: info for name, info in files.items() if not is_no_image(name)} or files
    others = [name for name in found if name not in files]
    if kind == "tars" and not asked and (packed := [n for n in others if n.lower().endswith(_PACKED_TARS)]):
        raise UserError(
            f"data {root} holds uncompressed tars and {len(packed)} compressed ({packed[0]}): decompress the"
            f" latter, or leave them out with --kind tars"
        )
    skipped.update(suffix_of(name) for name in others)
    if not asked and kind == "files" and not _are_images(root, files):
        raise no_images(root, files)
    return Listing(root=root, kind=kind, named=kind if by_kind[kind] else first, files=files, skipped=skipped)


def no_images(uri: str, files: Iterable[str]) -> UserError:
    """The error for a source without images; it names the suffixes that were found."""
    found = ", ".join(f"{n} {suffix}" for suffix, n in Counter(map(suffix_of, files)).most_common(5))
    return UserError(
        f"data {uri} holds no images (looked for Parquet files, tars and image files, also in subfolders;"
        f" found: {found or 'no file'})"
    )


def suffix_of(name: str) -> str:
    """The name under which a left-out file is counted: its suffix, or ``__MACOSX/``."""
    if is_of_macos(name):
        return f"{_MACOS}/"
    return posixpath.splitext(name)[1].lower() or "no suffix"


def is_of_macos(name: str) -> bool:
    """Whether a file is a resource fork, which macOS adds to archives under the image's name."""
    return _MACOS in name.split("/")


def look_at_each(root: str, names: Iterable[str], look: Callable[[Location], _Result]) -> Iterator[_Result]:
    """Yield ``look(file)`` for every file, in order.

    Runs in threads: an object store has a high latency but answers many requests at once.
    """
    place = resolve(root)
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(lambda name: look(place / name), names)


def _walk(root: str) -> tuple[Files, Counter[str]]:
    """The files in a local folder and its subfolders, sorted by path, and counts of those left out.

    Raises OSError for an unreadable folder. fsspec's ``find`` would treat that as empty, and a link to a
    folder as a file. Through links, a folder is listed at most 64 times.
    """
    found: Files = {}
    skipped: Counter[str] = Counter()
    info = resolve(root).fs.info
    visits: Counter[str] = Counter()

    def walk(here: str, prefix: str, above: tuple[str, ...]) -> None:
        with os.scandir(here) as entries:
            listed = list(entries)
        for entry in listed:
            name = prefix + entry.name
            if entry.name.startswith("."):
                skipped[HIDDEN] += 1
            elif entry.is_dir():
                target = os.path.realpath(entry.path) if entry.is_symlink() else f"{above[-1]}/{entry.name}"
                if any(f"{folder}/".startswith(f"{target.rstrip('/')}/") for folder in above):
                    skipped[_LOOPS] += 1
                elif target != f"{above[0]}/{name}" and visits[target] >= _MOST_VISITS:
                    skipped[_REPEATED] += 1
                else:
                    visits[target] += 1
                    walk(entry.path, f"{name}/", (*above, target))
            elif entry.is_file() or not os.path.exists(entry.path):  # a dangling link counts as a bad image
                with contextlib.suppress(FileNotFoundError):  # removed since the scan
                    found[name] = info(entry)
            else:
                skipped[_SPECIAL] += 1

    walk(root, "", (os.path.realpath(root),))
    return dict(sorted(found.items())), skipped


def _by_kind(found: Files) -> dict[Kind, Files]:
    kinds: dict[str, Kind] = {".parquet": "table", ".tar": "tars"}
    by_kind: dict[Kind, Files] = {"table": {}, "tars": {}, "files": {}}
    for name, info in found.items():
        by_kind[kinds.get(suffix_of(name), "files")][name] = info
    return by_kind


def _kind_of(root: str, by_kind: dict[Kind, Files]) -> Kind:
    """The one kind of files that hold images; raises UserError if there are several."""
    kinds = {kind: list(files) for kind, files in by_kind.items() if files}
    if len(kinds) < 2:
        return next(iter(kinds), "files")
    loose = [name for name in by_kind["files"] if _is_named_image(name)]
    unknown = {name: info for name, info in by_kind["files"].items() if not is_no_image(name)}
    if not loose and _are_images(root, unknown):
        loose = list(unknown)
    kinds["files"] = loose
    kinds = {kind: names for kind, names in kinds.items() if names}
    if (
        len(kinds) > 1
        and "table" in kinds
        and not any(look_at_each(root, kinds["table"], parquet.has_images))
    ):
        del kinds["table"]  # metadata of the images, such as an index of tars or a table of labels
    if len(kinds) > 1:
        words = {"table": "Parquet", "tars": "tar", "files": "image"}
        counts = " and ".join(
            f"{len(names)} {words[k]} file{'s' * (len(names) > 1)} ({names[0]})" for k, names in kinds.items()
        )
        raise UserError(
            f"data {root} holds {counts}; only one kind can be read: move the others elsewhere, or choose one"
            f" with --kind {' or '.join(kinds)}"
        )
    return next(iter(kinds))


def _is_named_image(name: str) -> bool:
    return suffix_of(name) in (*IMAGES, *_MORE_IMAGES)


def is_no_image(name: str) -> bool:
    """Whether a file's name shows that it holds no image."""
    base = posixpath.basename(name).lower()
    return bool(_NO_IMAGES.fullmatch(suffix_of(name))) or is_of_macos(name) or base in _NO_IMAGE_NAMES


def _are_images(root: str, files: Files) -> bool:
    """Whether files are images: a name has an image suffix, or one of the first files can be read as one."""
    if any(map(_is_named_image, files)):
        return True
    small = [name for name, info in files.items() if int(info.get("size") or 0) <= MAX_FILE_BYTES]
    return any(image_size(bytes_or_none(resolve(root) / name)) for name in small[:_PROBED])


def bytes_or_none(location: Location) -> bytes | None:
    """A file's content; None if the file no longer exists, is too large for an image, or no regular file."""
    try:
        return location.read_bytes(most=MAX_FILE_BYTES)
    except (FileNotFoundError, UserError):
        return None
