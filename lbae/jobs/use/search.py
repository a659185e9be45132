"""Find the images of a latent table that are nearest to an image."""

from typing import Any

from lbae.core.latents.packing import pack
from lbae.distributed.cluster.session import session
from lbae.distributed.cluster.storage_check import check_storage
from lbae.distributed.latent_table.little_work import is_little_work
from lbae.distributed.latent_table.neighbours import nearest_in
from lbae.errors import UserError
from lbae.io.artifacts import latent_table
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.artifacts.model_artifact import check_model, load_model
from lbae.io.images import encode_png
from lbae.io.picture_file import check_not_read, write_picture
from lbae.io.sources.decode import decode_keys
from lbae.io.sources.plan import plan
from lbae.io.storage.hub import pinned
from lbae.jobs.options import Address
from lbae.report.figures.pictures import load_image, strip


def search(
    *,
    latents: str,
    image: str,
    k: int = 20,
    out: str | None = None,
    model: str | None = None,
    data: str | None = None,
    address: Address = None,
) -> dict[str, Any]:
    """Find the images of a latent table that are nearest to an image, by Hamming distance of their latents.

    Args:
        latents: URI of the latent table.
        image: Image file to search with.
        k: Number of images to find, 1 or more.
        out: PNG file to write (*.png): the image, then the found images. If omitted: no picture.
            The found images are read from the table's source.
        model: URI of the model. If omitted: where it was when the table was encoded.
        data: URI of the table's images. If omitted: where they were when the table was encoded.
    """
    if k < 1:
        raise UserError(f"k is {k}; allowed: 1 or more")
    if out:
        check_not_read(out, image)
    table = latent_table.open_latent_table(latents)
    if not table.manifest.rows:
        raise UserError(f"latent table {latents} holds no rows; there is nothing to search")
    place = pinned(model or table.made_from("model"))
    check_model(f"latent table {latents}", table.model_fingerprint, read_manifest(place))
    codec = load_model(place, table.precision)
    query = load_image(codec.config, image)
    if out:
        source = plan(data or table.made_from("data"))
        source.check_output(out)
    with session(address, little=is_little_work(table, table.latent_dim)):
        check_storage([latents], [])
        hits = nearest_in(table, pack(codec.encode(query[None])), k).hits(0)
    found = [{"distance": hit.distance, **table.row(hit.part, hit.row_group, hit.row)} for hit in hits]
    if out:
        originals = decode_keys(source, codec.config, [row["key"] for row in found])
        write_picture(out, encode_png(strip([query, *originals])))
    return {"out": out, "rows": table.manifest.rows, "hits": found}
