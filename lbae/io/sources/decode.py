"""Decoding the images of a source's rows; rows that cannot be decoded go to a quarantine table."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8

from lbae.config import ModelConfig
from lbae.errors import LbaeError, UserError
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.images import ImageError, decode_image
from lbae.io.sources.source import Source, only, read_batches, read_shard
from lbae.io.storage.location import resolve
from lbae.io.storage.parquet_file import open_parquet

_QUARANTINE = "quarantine"
QUARANTINE_SCHEMA = pa.schema([("key", pa.string()), ("path", pa.string()), ("error", pa.string())])


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """Decoded images, their rows without the bytes, and the quarantine: rows that could not be decoded."""

    images: UInt8[np.ndarray, "K H W C"]
    rows: pa.Table
    quarantine: pa.Table


def decode_rows(table: pa.Table, config: ModelConfig, keep_images: bool = False) -> Decoded:
    """Decode rows of :func:`lbae.io.sources.source.read_batches`.

    With ``keep_images``, the decoded rows keep their bytes and path in a column ``image``.
    """
    images, good, bad = [], [], []
    keys, paths = table["key"].to_pylist(), table["path"].to_pylist()
    for index, data in enumerate(table["bytes"].to_pylist()):
        try:
            images.append(decode_image(data, config))
            good.append(index)
        except ImageError as error:
            bad.append({"key": keys[index], "path": paths[index], "error": str(error)})
    stacked = np.stack(images) if images else np.empty((0, *config.image_shape), dtype=np.uint8)
    rest = table.drop_columns(["bytes"])
    if keep_images:
        fields = [table[name].combine_chunks() for name in ("bytes", "path")]
        rest = rest.append_column("image", pa.StructArray.from_arrays(fields, ["bytes", "path"]))
    return Decoded(
        images=stacked,
        rows=rest if not bad else rest.take(np.array(good, dtype=np.int64)),
        quarantine=pa.Table.from_pylist(bad, schema=QUARANTINE_SCHEMA),
    )


def decode_every(source: Source, config: ModelConfig) -> Iterator[Decoded]:
    """Decode all images of a source, in batches."""
    for shard in source.shards:
        for table in read_batches(shard):
            yield decode_rows(table, config)


def decode_keys(source: Source, config: ModelConfig, keys: list[str]) -> UInt8[np.ndarray, "K H W C"]:
    """The images with these keys, in this order; raises UserError if the source lacks one of them."""
    found: dict[str, np.ndarray] = {}
    for shard in only(source.shards, pa.array(keys, pa.string())):
        decoded = decode_rows(read_shard(shard), config)
        found |= dict(zip(decoded.rows["key"].to_pylist(), decoded.images, strict=True))
    if missing := [key for key in keys if key not in found]:
        raise UserError(
            f"{source.uri} no longer holds image {missing[0]}; give the source that the latents were made"
            f" from"
        )
    return np.stack([found[key] for key in keys])


def check_bad_share(what: str, bad: int, total: int, allowed: float, table: str | None = None) -> None:
    """Raise LbaeError if the share of undecodable images exceeds ``allowed``, or ``allowed`` is NaN.

    ``table`` is the published table whose quarantine holds the undecodable images.
    """
    if bad <= allowed * total:
        return
    if table is None or not bad:
        where = "`lbae encode` lists them in a quarantine table"
    else:
        row = _first_of_quarantine(table)
        where = f"the first is {row['key']} ({row['error']}), all are in {resolve(table) / _QUARANTINE}"
    raise LbaeError(
        f"{bad} of {total} images of {what} could not be decoded, more than the allowed share of"
        f" {allowed:g} (--max-bad-fraction); {where}"
    )


def _first_of_quarantine(table: str) -> dict[str, Any]:
    """The first row in the quarantine of a table's newest generation."""
    files = [name for name in read_manifest(table).files if name.startswith(f"{_QUARANTINE}/")]
    newest = files[-1].rpartition("-")[0]
    with open_parquet(resolve(table) / next(name for name in files if name.startswith(newest))) as parquet:
        row: dict[str, Any] = next(parquet.iter_batches(1)).to_pylist()[0]
    return row
