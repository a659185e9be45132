"""The picture files that jobs write."""

from lbae.errors import UserError
from lbae.io.storage.location import resolve, usable_output


def check_not_read(out: str, *images: str) -> None:
    """Raise UserError if the picture ``out`` would overwrite an image that the job reads."""
    place = resolve(out)
    for image in images:
        read = resolve(image)
        if place.holds(read) and read.holds(place):
            raise UserError(f"{out} is an image that this job reads; choose another --out")


def write_picture(out: str, data: bytes) -> None:
    """Write a picture, replacing an existing file; raises UserError if ``out`` cannot be written."""
    place = resolve(out)
    with usable_output(place):
        place.write_bytes(data)
