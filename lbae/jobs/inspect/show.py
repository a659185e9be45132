"""Describe an artifact: kind, inputs, rows and statistics; or draw a picture of it."""

from typing import Any

from lbae.errors import UserError
from lbae.io.artifacts import latent_table
from lbae.io.artifacts.describe import describe
from lbae.io.images import encode_png
from lbae.io.picture_file import write_picture
from lbae.report.figures.pictures import portrait


def show(uri: str, /, *, picture: str | None = None) -> dict[str, Any]:
    """Describe an artifact: kind, inputs, rows and statistics.

    Args:
        uri: URI of any artifact, such as a model, latent table, moment sums or bundle.
        picture: PNG file to write (*.png). If omitted: no picture.
            It shows images of an image table, decoded latents of a latent table, or samples of a bundle.
    """
    facts = describe(uri)
    if picture:
        if facts["kind"] == latent_table.KIND and not facts["rows"]:
            raise UserError(f"{uri} holds no latents, so there is nothing to draw; see its quarantine")
        write_picture(picture, encode_png(portrait(uri)))
    return facts
