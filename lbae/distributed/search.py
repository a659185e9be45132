"""Searching a latent table: every task finds the nearest in a run of row groups, the driver merges what they found."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from lbae.config import ModelConfig
from lbae.core.packing import pack
from lbae.core.search import nearest
from lbae.distributed.session import cluster_cpus, session
from lbae.errors import UserError
from lbae.io import latent_table
from lbae.io import source as image_source
from lbae.io.artifact import read_manifest
from lbae.io.decode import decode_rows
from lbae.io.images import encode_png
from lbae.io.latent_table import LatentTable, RowGroup
from lbae.io.model import check_model, load_model
from lbae.io.storage import resolve
from lbae.report.pictures import load_image, strip

_TASK_ROWS = 2**20


@dataclass(frozen=True, order=True, kw_only=True)
class Hit:
    """A latent that was found: its distance in bits, and its row in a row group of a part of the table."""

    distance: int
    part: str
    group: int
    row: int


def search(
    *,
    latents: str,
    image: str,
    k: int = 20,
    out: str | None = None,
    model: str | None = None,
    data: str | None = None,
    address: str | None = None,
) -> dict[str, Any]:
    """Find the images of a latent table that are nearest to one image, by Hamming distance of their latents.

    Args:
        latents: URI of the latent table.
        image: image file.
        k: how many to find.
        out: picture (*.png) of the image and then those found, from the table's source.
        model: URI of the model, where it is no longer where it was when the table was encoded.
        data: URI of the table's source, where it has moved since.
        address: Ray cluster to join; found or started when not given.
    """
    if k < 1:
        raise UserError(f"k is {k}; allowed: 1 or more")
    table = latent_table.open_latent_table(latents)
    place = model or table.made_from("model")
    check_model(f"latent table {latents}", table.model_fingerprint, read_manifest(place))
    codec = load_model(place, table.manifest.result["precision"])
    query = load_image(codec.config, image)
    with session(address):
        hits = nearest_in(table, pack(codec.encode(query[None]))[0], k)
    found = [{"distance": hit.distance, **table.row(hit.part, hit.group, hit.row)} for hit in hits]
    if out:
        originals = _images(image_source.plan(data or table.made_from("data")), codec.config, [row["key"] for row in found])
        resolve(out).write_bytes(encode_png(strip([query, *originals])))
    return {"out": out, "rows": table.manifest.rows, "hits": found}


def nearest_in(table: LatentTable, packed: np.ndarray, k: int) -> list[Hit]:
    """The k latents of a table nearest to a packed one; of those equally far the first."""
    groups = [group for part in table.parts for group in table.footer(part, [])[0]]
    most = min(_TASK_ROWS, -(-table.manifest.rows // cluster_cpus()))
    cut = image_source.runs([group.rows for group in groups], [0] * len(groups), most, 1)
    handle = ray.put(table)
    partial = [_search.remote(handle, groups[first:last], packed, k) for first, last in cut]
    return heapq.nsmallest(k, (hit for found in ray.get(partial) for hit in found))


@ray.remote(num_cpus=1)
def _search(table: LatentTable, groups: Sequence[RowGroup], packed: np.ndarray, k: int) -> list[Hit]:
    hits: list[Hit] = []
    for group in groups:
        first = 0
        for rows in table.batches([group], ["latent"]):
            distances, found = nearest(packed[None], latent_table.packed_latents(rows), k)
            hits += [
                Hit(distance=int(distance), part=group.part, group=group.index, row=first + int(row))
                for distance, row in zip(distances[0], found[0], strict=True)
            ]
            first += len(rows)
        hits = heapq.nsmallest(k, hits)
    return hits


def _images(source: image_source.Source, config: ModelConfig, keys: list[str]) -> list[np.ndarray]:
    """The images of some keys; UserError when the source holds them no longer."""
    found: dict[str, np.ndarray] = {}
    for shard in image_source.only(source.shards, pa.chunked_array([keys], pa.string())):
        decoded = decode_rows(image_source.read_shard(shard), config)
        found |= dict(zip(decoded.rows["key"].to_pylist(), decoded.images, strict=True))
    if missing := [key for key in keys if key not in found]:
        raise UserError(f"{source.uri} holds no image {missing[0]} any more; give the table's source with --data")
    return [found[key] for key in keys]
