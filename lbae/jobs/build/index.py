"""Write a search index of latent tables."""

from typing import Any

from lbae.core.latents.inverted_lists import MOST_LISTS, default_lists
from lbae.distributed.cluster.session import session
from lbae.distributed.cluster.storage_check import check_storage
from lbae.distributed.latent_table.little_work import is_little_work
from lbae.distributed.search_index.index_build import build_index
from lbae.errors import UserError
from lbae.io.artifacts.latent_tables import open_latent_tables
from lbae.io.artifacts.output import Output
from lbae.io.artifacts.search_index import KIND
from lbae.io.storage.lock import locked
from lbae.jobs.options import Address, OneOrMore, Overwrite


def index(
    *,
    latents: OneOrMore,
    out: str,
    lists: int | None = None,
    overwrite: Overwrite = False,
    address: Address = None,
) -> dict[str, Any]:
    """Write a search index of latent tables, so that a search reads a small part of them.

    Args:
        latents: URI of the latent table. Several, or a pattern such as 'OUT/*', are indexed as one table.
        out: URI of the search index to write. It takes about as much room as the latents.
        lists: Number of lists of similar latents, 1 to 16384. Their centres are learned from 160 bytes per
            list and bit. If omitted: about the square root of the rows, at most 4096 or a gibibyte.
    """
    table = open_latent_tables(latents)
    if not table.rows:
        raise UserError(f"{table} holds no rows; there is nothing to index")
    count = default_lists(table.rows, table.latent_dim) if lists is None else lists
    if not 1 <= count <= min(table.rows, MOST_LISTS):
        raise UserError(
            f"lists is {count}; allowed: 1 to {MOST_LISTS}, and at most the {table.rows} rows of {table}"
        )
    output = Output(
        out,
        KIND,
        parents={"latents": table.fingerprint, "model": table.model_fingerprint},
        config={"lists": count},
        inputs=table.uris,
        overwrite=overwrite,
    )
    little = is_little_work(table.rows, count * table.latent_dim)
    with locked(out) as check_lock, session(address, little=little):
        check_storage(table.uris, [out])
        if done := output.existing():
            return done
        return build_index(table, output, count, check_lock)
