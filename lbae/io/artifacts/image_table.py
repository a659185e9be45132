"""Writing image tables: Parquet with an ``image`` column in the layout of the Hugging Face Hub."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8

from lbae.io.artifacts.output import Output
from lbae.io.artifacts.written_part import Part, total_digest
from lbae.io.images import encode_png
from lbae.io.storage.digests import RowDigest
from lbae.io.storage.parquet_file import write_parquet

KIND = "image table"


def write_part(out: str, index: int, first: int, images: UInt8[np.ndarray, "K H W C"]) -> Part:
    """Write images as PNG into part ``index`` of the table at ``out``; ``first`` numbers the first image."""
    return write_files(
        out, index, [(f"{first + i:08d}.png", encode_png(image)) for i, image in enumerate(images)], {}
    )


def write_files(
    out: str, index: int, encoded: list[tuple[str, bytes]], columns: dict[str, list[Any]]
) -> Part:
    """Write part ``index`` of the table at ``out`` from encoded images (path, bytes) and further columns."""
    table = pa.table({"image": [{"bytes": data, "path": path} for path, data in encoded], **columns})
    digest = RowDigest()
    digest.add(rows_of(table))
    file = f"data/part-{index:05d}.parquet"
    write_parquet(out, file, table)
    return Part(files=(file,), rows=len(encoded), digest=digest.total)


def rows_of(table: pa.Table) -> Iterator[bytes]:
    """Yield every row of an image table as bytes, for the table's fingerprint."""
    for image, rest in zip(
        table["image"].to_pylist(), table.drop_columns(["image"]).to_pylist(), strict=True
    ):
        yield image["path"].encode() + image["bytes"] + (repr(sorted(rest.items())).encode() if rest else b"")


def publish_images(output: Output, parts: Sequence[Part], result: dict[str, Any]) -> dict[str, Any]:
    """Publish the image table that consists of these parts."""
    return output.publish(
        fingerprint=total_digest(parts).fingerprint(KIND),
        rows=sum(part.rows for part in parts),
        files=[file for part in parts for file in part.files],
        result=result,
    )
