"""Writing image tables: Parquet with an ``image`` column in the layout of the Hugging Face hub."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8

from lbae.io.artifacts.latent_table import write_parquet
from lbae.io.artifacts.output import RowDigest, publish
from lbae.io.images import encode_png

KIND = "image table"


@dataclass(frozen=True, kw_only=True)
class ImagePart:
    """A part that was written: its files in the artifact, its rows, the sum of their hashes, and the images
    set aside.
    """

    files: tuple[str, ...]
    rows: int
    digest: int
    bad: int = 0


def write_part(out: str, index: int, first: int, images: UInt8[np.ndarray, "K H W C"]) -> ImagePart:
    """Write part ``index`` of the table at ``out``: losslessly compressed PNG, named by their rows from
    ``first`` on.
    """
    return write_files(
        out, index, [(f"{first + i:08d}.png", encode_png(image)) for i, image in enumerate(images)], {}
    )


def write_files(
    out: str, index: int, encoded: list[tuple[str, bytes]], columns: dict[str, list[Any]]
) -> ImagePart:
    """Write part ``index`` of the table at ``out`` from names and contents of image files, and further
    columns.
    """
    table = pa.table({"image": [{"bytes": data, "path": path} for path, data in encoded], **columns})
    digest = RowDigest()
    digest.add(rows_of(table))
    file = f"data/part-{index:05d}.parquet"
    write_parquet(out, file, table)
    return ImagePart(files=(file,), rows=len(encoded), digest=digest.total)


def rows_of(table: pa.Table) -> Iterator[bytes]:
    """Every row of an image table as bytes, for its fingerprint."""
    for image, rest in zip(
        table["image"].to_pylist(), table.drop_columns(["image"]).to_pylist(), strict=True
    ):
        yield image["path"].encode() + image["bytes"] + (repr(sorted(rest.items())).encode() if rest else b"")


def publish_parts(
    out: str,
    parts: Sequence[ImagePart],
    *,
    parents: dict[str, str],
    config: dict[str, Any],
    result: dict[str, Any],
) -> dict[str, Any]:
    """Publish the image table that consists of these parts."""
    digest = RowDigest(sum(part.digest for part in parts) % 2**256)
    return publish(
        out,
        KIND,
        fingerprint=digest.fingerprint(KIND),
        parents=parents,
        config=config,
        rows=sum(part.rows for part in parts),
        files=[file for part in parts for file in part.files],
        result=result,
    )
