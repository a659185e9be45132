"""WebDataset tars: members whose paths are equal up to the file name's first dot form one sample."""

import itertools
import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, cast

import pyarrow as pa

from lbae.errors import UserError
from lbae.io.image_formats import MAX_FILE_BYTES
from lbae.io.sources.listing import HIDDEN, IMAGES, is_no_image, is_of_macos, suffix_of
from lbae.io.storage.location import Location

_LABEL = ".cls"
_MAX_LABEL_BYTES = 64
# All headers of one member; tarfile copies the values of a pax header into each header behind it.
_MAX_HEADER_BYTES = 2**17
_MAX_GLOBAL_CHARACTERS = 2**12  # git writes some 50
# tarfile searches for numbers in time that grows with the square of their digits. A file name has up to 255.
_LONG_NUMBER = re.compile(rb"\d{256}")
# What tarfile raises for damaged headers, beside its own errors.
_DAMAGED = (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError)
_NO_SUFFIX = "."


@dataclass(frozen=True, kw_only=True)
class TarMember:
    """The position of a member's content in a tar."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, kw_only=True)
class TarSample:
    """The image and the class of one WebDataset sample."""

    name: str
    image: TarMember | None
    label: TarMember | None


@dataclass(frozen=True, kw_only=True)
class TarIndex:
    """The samples of a tar, and counts by suffix of its other members."""

    samples: tuple[TarSample, ...]
    skipped: Counter[str] = field(default_factory=Counter)


def index_tar(location: Location) -> TarIndex:
    """The samples of a tar, from its headers alone.

    A sample is left out if the names of all its members show that they are not images.

    Raises:
        UserError: The file is not a complete tar; two members have the same name, so that either may be an
            old version or another image; or images would be lost because of dots in their names.
    """
    found: dict[str, dict[str, TarMember]] = {}
    skipped: Counter[str] = Counter()
    for member in _members(location):
        folder, base = posixpath.split(member.name)
        stem, _, suffix = base.partition(".")
        if not stem or is_of_macos(member.name):
            skipped[suffix_of(member.name) if stem else HIDDEN] += 1
            continue
        sample = found.setdefault(posixpath.join(folder, stem), {})
        if sample.setdefault(f".{suffix.lower()}", member) is not member:
            raise UserError(
                f"{location} has more than one member {member.name}: some of its images would be lost; give"
                f" every sample a unique name (extracting the tar keeps only the last member of each name)"
            )
    samples, lost = [], list[str]()
    for name, members in found.items():
        image, label = _image_of(members), members.get(_LABEL)
        others = [member.name for member in members.values() if member is not image and member is not label]
        skipped.update(map(suffix_of, others))
        if image is None or image is members.get(_NO_SUFFIX):
            lost += [other for other in others if suffix_of(other) in IMAGES]
        if image or label or not all(map(is_no_image, others)):
            samples.append(TarSample(name=name, image=image, label=label))
    if lost:
        raise UserError(
            f"{location} has images that would be lost ({len(lost)}, the first is {lost[0]}): in a WebDataset"
            f" tar a sample's name ends at the first dot, and its image is NAME.png or NAME.jpg; rename the"
            f" images so that the only dot in a name is the one before the suffix"
        )
    return TarIndex(samples=tuple(samples), skipped=skipped)


def _image_of(members: dict[str, TarMember]) -> TarMember | None:
    """The first member with an image suffix and nothing more, else the member without a suffix.

    Only its bytes tell whether a member without a suffix is an image.
    """
    bare = members.get(_NO_SUFFIX)
    return next(
        (member for suffix, member in members.items() if suffix in IMAGES),
        bare if bare and not is_no_image(bare.name) else None,
    )


class _Headers:
    """A file of which tarfile reads headers; it refuses headers that would take much memory or time."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell
        self.left = _MAX_HEADER_BYTES

    def read(self, size: int) -> bytes:
        self.left -= size
        if self.left < 0:
            raise tarfile.ReadError(f"a member's headers exceed {_MAX_HEADER_BYTES} bytes; allowed: as many")
        data = self._file.read(size)
        if _LONG_NUMBER.search(data):
            raise tarfile.ReadError("a header with a number of 256 digits or more; allowed: 255 digits")
        return data


def _members(location: Location) -> Iterator[TarMember]:
    """The files of a tar; a link has the content of its target, or is empty if the target is missing."""
    try:
        with (
            location.open() as file,
            tarfile.open(fileobj=cast(IO[bytes], headers := _Headers(file)), mode="r:") as tar,
        ):
            every = []
            for info in tar:
                headers.left = _MAX_HEADER_BYTES
                # A negative size would send tarfile back for ever. A sparse file's bytes are not in one run.
                if info.size < 0 or info.issparse():
                    found = "a sparse file" if info.issparse() else f"of {info.size} bytes"
                    raise UserError(f"member {info.name} of {location} is {found}; write the tar without it")
                # tarfile copies the global header into every member that has a header of its own.
                size = sum(map(len, itertools.chain(*tar.pax_headers.items())))
                if size > (most := _MAX_GLOBAL_CHARACTERS):
                    raise tarfile.ReadError(f"a global pax header of {size} characters; allowed: {most}")
                info.pax_headers = {}
                if info.isfile() or info.islnk() or info.issym():
                    every.append(info)
            # tarfile treats the end of the file or a damaged header as the end of the tar.
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise UserError(
                    f"{location} has no end-of-archive marker after {len(every)} members, at byte"
                    f" {tar.offset:,}: it may be cut short or damaged; copy or write it again"
                )
    except _DAMAGED as error:
        raise UserError(
            f"{location} cannot be read as an uncompressed tar: {str(error) or type(error).__name__}"
        ) from error
    files = {posixpath.normpath(info.name): info for info in every if info.isfile()}
    for info in every:
        folder = posixpath.dirname(info.name) if info.issym() else ""
        target = (
            files.get(posixpath.normpath(posixpath.join(folder, info.linkname))) if info.linkname else info
        )
        offset, size = (target.offset_data, target.size) if target else (0, 0)
        yield TarMember(name=info.name, offset=offset, size=size)


def read(
    location: Location, wanted: tuple[TarSample, ...], labelled: bool
) -> tuple[list[bytes | None], pa.Array]:
    """The samples' image bytes and, if ``labelled``, their classes (int64).

    The bytes are None without an image, or with one of more than 256 MiB.

    Raises:
        UserError: A class is not a 64-bit integer.
    """
    with location.open() as file:

        def content(member: TarMember, most: int) -> bytes:
            file.seek(member.offset)
            return file.read(min(member.size, most))

        data = [
            content(image, MAX_FILE_BYTES) if image and image.size <= MAX_FILE_BYTES else None
            for image in (sample.image for sample in wanted)
        ]
        classes = [
            _class(location, label, content(label, _MAX_LABEL_BYTES + 1)) if label else None
            for label in (sample.label for sample in wanted if labelled)
        ]
    return data, pa.array(classes, pa.int64())


def _class(location: Location, label: TarMember, text: bytes) -> int:
    try:
        if len(text) > _MAX_LABEL_BYTES:
            raise ValueError(f"more than {_MAX_LABEL_BYTES} bytes")
        value = int(text)
        pa.scalar(value, pa.int64())
    except (ValueError, OverflowError) as error:
        raise UserError(
            f"member {label.name} of {location} holds {text[:50].decode(errors='replace')!r}; allowed:"
            f" a 64-bit integer; number the classes, or use one folder of images per class"
        ) from error
    return value
