"""Find the images of latent tables that are nearest to an image."""

from typing import Any

import numpy as np

from lbae.config import ModelConfig
from lbae.core.latents.packing import pack
from lbae.distributed.cluster.session import session
from lbae.distributed.cluster.storage_check import check_storage
from lbae.distributed.latent_table.little_work import is_little_work
from lbae.distributed.latent_table.neighbours import nearest_in
from lbae.distributed.search_index.index_search import hits_by_index
from lbae.errors import UserError
from lbae.io.artifacts.latent_tables import LatentTables, open_latent_tables
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.artifacts.model_artifact import check_model, load_model
from lbae.io.artifacts.search_index import SearchIndex, open_search_index
from lbae.io.images import encode_png
from lbae.io.picture_file import check_not_read, write_picture
from lbae.io.sources.decode import decode_keys
from lbae.io.sources.plan import plan
from lbae.io.sources.source import Source
from lbae.io.storage.hub import pinned
from lbae.jobs.options import Address, OneOrMore
from lbae.report.figures.pictures import load_image, strip

_PROBES = 16


def search(
    *,
    latents: OneOrMore,
    image: str,
    k: int = 20,
    index: str | None = None,
    probes: int | None = None,
    out: str | None = None,
    model: str | None = None,
    data: OneOrMore | None = None,
    address: Address = None,
) -> dict[str, Any]:
    """Find the images of latent tables that are nearest to an image, by Hamming distance of their latents.

    Args:
        latents: URI of the latent table. Several, or a pattern such as 'OUT/*', are searched as one table.
        image: Image file to search with.
        k: Number of images to find, 1 or more.
        index: URI of a search index of the same tables. It makes the search faster, but some of the
            nearest images may be missing. `recall` in the result is the share that was found of the 20
            nearest to indexed images when the index was written.
            If omitted: compare with all latents.
        probes: Number of lists of the index to look into, 1 or more; more find more.
            If they hold fewer than k images, fewer are found. If omitted: 16.
        out: PNG file to write (*.png): the image, then the found images. If omitted: no picture.
            The found images are read from their tables' sources.
        model: URI of the model. If omitted: where it was when the first table was encoded.
        data: URI of the tables' images. If omitted: where they were when each table was encoded.
    """
    if k < 1:
        raise UserError(f"k is {k}; allowed: 1 or more")
    if out:
        check_not_read(out, image)
    table = open_latent_tables(latents)
    if not table.rows:
        raise UserError(f"latent table {table} holds no rows; there is nothing to search")
    probed = _probed(index, table, probes)
    place = pinned(model or table.model)
    check_model(f"latent table {table}", table.model_fingerprint, read_manifest(place))
    codec = load_model(place, table.precision)
    query = load_image(codec.config, image)
    sources: dict[str, Source] = {}
    if out:
        one = plan(data) if data else None
        sources = {each.uri: one or plan(each.images()) for each in table.tables}
        for source in sources.values():
            source.check_output(out)
    compared = probed[0].rows_read(probed[1]) if probed else table.rows
    with session(address, little=is_little_work(compared, table.latent_dim)):
        check_storage([*table.uris, *([index] if index else [])], [])
        code = pack(codec.encode(query[None]))
        if probed is None:
            hits = nearest_in(table, code, k).hits(0)
        else:
            hits = hits_by_index(table, *probed, code[0], k)
    rows = [table.row(hit.part, hit.row_group, hit.row) for hit in hits]
    if out:
        holders = [table.holder(hit.part).uri for hit in hits]
        originals = _images(sources, codec.config, holders, [row["key"] for row in rows])
        write_picture(out, encode_png(strip([query, *originals])))
    found = [
        {"distance": hit.distance, **row, **_table_of(table, hit.part)}
        for hit, row in zip(hits, rows, strict=True)
    ]
    used = {"probes": probed[1], "recall": probed[0].expected_recall(probed[1])} if probed else {}
    return {"out": out, "rows": table.rows, **used, "hits": found}


def _probed(index: str | None, table: LatentTables, probes: int | None) -> tuple[SearchIndex, int] | None:
    """The index and the number of its lists to look into; None without an index."""
    if index is None:
        if probes is not None:
            raise UserError(f"probes is {probes}, but no index is given; give --index as well")
        return None
    opened = open_search_index(index, table)
    count = min(_PROBES, opened.lists) if probes is None else probes
    if not 1 <= count <= opened.lists:
        raise UserError(f"probes is {count}; allowed: 1 to the {opened.lists} lists of {index}")
    return opened, count


def _table_of(table: LatentTables, part: str) -> dict[str, str]:
    """The entry of a hit that names its table, needed where there are several."""
    return {"latents": table.holder(part).uri} if len(table.tables) > 1 else {}


def _images(
    sources: dict[str, Source], config: ModelConfig, tables: list[str], keys: list[str]
) -> list[np.ndarray]:
    """The images with these keys; ``sources`` has the source of each table."""
    found: dict[tuple[str, str], np.ndarray] = {}
    for table in dict.fromkeys(tables):
        own = [key for key, its in zip(keys, tables, strict=True) if its == table]
        images = decode_keys(sources[table], config, own)
        found |= {(table, key): image for key, image in zip(own, images, strict=True)}
    return [found[one] for one in zip(tables, keys, strict=True)]
