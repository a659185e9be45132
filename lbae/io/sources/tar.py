"""WebDataset tars: members of one name, up to the first dot after the folder, are one sample."""

import posixpath
import tarfile
from dataclasses import dataclass

import pyarrow as pa

from lbae.errors import LbaeError, UserError
from lbae.io.storage.location import Location

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm")
_LABEL = "cls"


@dataclass(frozen=True, kw_only=True)
class Member:
    """Where the content of a tar's member lies."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The members of one name that matter here: the image and the class."""

    name: str
    image: Member | None
    label: Member | None


def samples(location: Location) -> list[Sample]:
    """The samples of a tar, from its headers alone; UserError when it is no tar."""
    found: dict[str, dict[str, Member]] = {}
    try:
        with location.open() as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                folder, base = posixpath.split(info.name)
                stem, _, suffix = base.partition(".")
                if info.isfile() and stem:
                    member = Member(name=info.name, offset=info.offset_data, size=info.size)
                    found.setdefault(posixpath.join(folder, stem), {})[suffix.lower()] = member
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{location} cannot be read as an uncompressed tar: {error}") from error
    return [
        Sample(
            name=name,
            image=next((member for suffix, member in members.items() if suffix in IMAGES), None),
            label=members.get(_LABEL),
        )
        for name, members in found.items()
    ]


def read(
    location: Location, wanted: tuple[Sample, ...], labelled: bool
) -> tuple[list[bytes | None], pa.Array]:
    """Image bytes, null where a sample has no image, and classes, int64; LbaeError for a class that is no
    whole number.
    """
    with location.open() as file:

        def content(member: Member | None) -> bytes | None:
            if member is None:
                return None
            file.seek(member.offset)
            return file.read(member.size)

        data = [content(sample.image) for sample in wanted]
        classes = [content(sample.label) for sample in wanted] if labelled else []
    try:
        labels = pa.array([None if text is None else int(text) for text in classes], pa.int64())
    except ValueError as error:
        raise LbaeError(f"a .{_LABEL} member of {location} is no whole number: {error}") from error
    return data, labels
