"""Decoding an epoch of large originals compared with decoding what ``lbae ingest --size`` stored of them."""

import io

import numpy as np
import pytest
from PIL import Image

from lbae import presets
from lbae.io.artifacts import ingest_parts
from lbae.io.sources.decode import decode_every
from lbae.io.sources.plan import plan
from lbae.io.sources.stored_size import StoredSize
from tests.conftest import image_table

CONFIG = presets.get("celeba").model
IMAGES, DISTINCT = 1000, 20


def jpegs(side: int) -> list[bytes]:
    """JPEGs of noise at several scales, which compress about as photographs do."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(DISTINCT):
        pixels = np.zeros((side, side, 3))
        for scale in (1, 4, 16, 64):
            noise = Image.fromarray(rng.integers(0, 256, (side // scale, side // scale, 3), dtype=np.uint8))
            pixels += np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC)) * scale**0.5 / 15
        buffer = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


@pytest.mark.parametrize("side", [64, 128, 512, 1024])
def test_decoding_stored_images(tmp_path, compare, side):
    cells = [data + bytes([i]) for data in jpegs(side) for i in range(IMAGES // DISTINCT)]
    image_table(tmp_path / "originals" / "a.parquet", cells)
    originals, out = plan(str(tmp_path / "originals")), str(tmp_path / "table")
    size = StoredSize(side=CONFIG.content_size, channels=CONFIG.image_channels)
    for index, shards in ingest_parts.plan_image_parts(originals.shards, size):
        ingest_parts.ingest_part(out, index, shards, size)
    stored = plan(f"{out}/data")

    def epoch(source) -> None:
        assert sum(len(part.images) for part in decode_every(source, CONFIG)) == IMAGES

    compare(
        lambda: epoch(stored),
        lambda: epoch(originals),
        f"the decoding speed of JPEGs of {side} pixels and {sum(map(len, cells)) // IMAGES} bytes",
    )
