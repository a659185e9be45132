"""Describe an artifact or several latent tables, or draw a picture of them."""

from typing import Any

from lbae.errors import UserError
from lbae.io.artifacts import latent_table
from lbae.io.artifacts.describe import describe, describe_tables
from lbae.io.artifacts.latent_tables import is_pattern, open_latent_tables
from lbae.io.images import encode_png
from lbae.io.picture_file import write_picture
from lbae.jobs.options import Words
from lbae.report.figures.pictures import portrait, portrait_of_latents


def show(uri: str, /, *more: Words, picture: str | None = None) -> dict[str, Any]:
    """Describe an artifact: kind, inputs, rows and statistics.

    Args:
        uri: URI of any artifact, such as a model, latent table, moment sums or bundle. A pattern such as
            'OUT/*' stands for latent tables.
        more: URIs or patterns of more latent tables, described as one with the first.
        picture: PNG file to write (*.png). If omitted: no picture.
            It shows images of an image table, decoded latents of a latent table, or samples of a bundle.
    """
    several = open_latent_tables([uri, *more]) if more or is_pattern(uri) else None
    facts = describe_tables(several) if several else describe(uri)
    if picture:
        if facts["kind"] == latent_table.KIND and not facts["rows"]:
            raise UserError(
                f"{several or uri} holds no latents, so there is nothing to draw; see its quarantine"
            )
        write_picture(picture, encode_png(portrait_of_latents(several) if several else portrait(uri)))
    return facts
