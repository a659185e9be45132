"""Writing image tables: Parquet with an ``image`` column in the layout of the Hugging Face hub."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from lbae.io.artifact import RowDigest, publish
from lbae.io.images import encode_png
from lbae.io.latent_table import write_parquet

KIND = "image table"


def save_image_table(
    out: str, batches: Iterable[np.ndarray], *, parents: dict[str, str], config: dict[str, Any]
) -> dict[str, Any]:
    """Publish uint8 images, one part file a batch (K, H, W, C), as losslessly compressed PNG."""
    files, digest, rows = [], RowDigest(), 0
    for index, images in enumerate(batches):
        encoded = [(f"{rows + i:08d}.png", encode_png(image)) for i, image in enumerate(images)]
        digest.add(path.encode() + data for path, data in encoded)
        rows += len(encoded)
        files.append(f"data/part-{index:05d}.parquet")
        write_parquet(out, files[-1], pa.table({"image": [{"bytes": data, "path": path} for path, data in encoded]}))
    return publish(
        out,
        KIND,
        fingerprint=digest.fingerprint(KIND),
        parents=parents,
        config=config,
        rows=rows,
        files=files,
        result={},
    )
