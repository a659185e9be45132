"""The picture files that jobs write."""

from lbae.errors import UserError
from lbae.io.storage.location import resolve, usable_output


def check_not_read(out: str, *images: str) -> None:
    """UserError when a picture would replace an image that the job reads."""
    place = resolve(out)
    for image in images:
        read = resolve(image)
        if place.holds(read) and read.holds(place):
            raise UserError(f"{out} is the image that is read; choose another --out")


def write_picture(out: str, data: bytes) -> None:
    """Write a picture, in place of one that is there; UserError when no file can be written at ``out``."""
    place = resolve(out)
    with usable_output(place):
        place.write_bytes(data)
