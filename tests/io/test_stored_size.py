"""Tables of ``lbae ingest --size`` hold the pixels that a model decodes from the original images."""

import io
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lbae.config import ModelConfig
from lbae.errors import UserError
from lbae.io.artifacts import ingest_parts
from lbae.io.artifacts.image_table import publish_images
from lbae.io.artifacts.output import Output
from lbae.io.images import decode_image, encode_png
from lbae.io.sources.decode import decode_every
from lbae.io.sources.plan import plan
from lbae.io.sources.source import Source, read_shard
from lbae.io.sources.stored_size import StoredSize
from tests.conftest import image_table

COLOUR, GREY = ModelConfig(), ModelConfig(image_channels=1, padding=2)


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def originals() -> dict[str, bytes]:
    """Images of many sizes, colour modes and formats, by what is special about them."""
    rng = np.random.default_rng(0)

    def noise(height: int, width: int, channels: int = 3) -> Image.Image:
        coarse = rng.integers(0, 256, (height // 7 + 2, width // 7 + 2, channels), dtype=np.uint8)
        return Image.fromarray(coarse.squeeze()).resize((width, height), Image.Resampling.BICUBIC)

    turned = Image.Exif()
    turned[0x0112] = 6
    clear = Image.new("RGB", (90, 71), (200, 30, 30)).convert("P")
    deep = rng.integers(0, 65536, (77, 51), dtype=np.uint16)
    return {
        "odd sides": saved(noise(101, 67)),
        "one row": saved(noise(1, 333)),
        "smaller": saved(noise(19, 23)),
        "one side smaller": saved(noise(200, 20)),
        "exact": saved(noise(32, 32)),
        "exact for grey": saved(noise(28, 28)),
        "JPEG": saved(noise(301, 415), "JPEG", quality=90),
        "huge JPEG": saved(noise(1111, 999), "JPEG", quality=80, progressive=True),
        "grey JPEG": saved(noise(301, 415, 1), "JPEG"),
        "CMYK JPEG": saved(noise(99, 120).convert("CMYK"), "JPEG"),
        "turned JPEG": saved(noise(120, 333), "JPEG", exif=turned),
        "turned PNG": saved(noise(33, 80), exif=turned),
        "transparent": saved(noise(64, 96, 4)),
        "grey with alpha": saved(noise(64, 50, 2)),
        "16 bits": saved(Image.fromarray(deep)),
        "floats": saved(Image.fromarray((deep / 65535).astype(np.float32)), "TIFF"),
        "grey": saved(noise(97, 97, 1)),
        "bits": saved(noise(45, 46).convert("1")),
        "palette": saved(noise(130, 131).convert("P", palette=Image.Palette.ADAPTIVE)),
        "transparent palette": saved(clear, transparency=0),
        "animated GIF": saved(
            noise(50, 70).convert("P"), "GIF", save_all=True, append_images=[noise(50, 70).convert("P")]
        ),
        "WebP": saved(noise(150, 75), "WEBP", quality=70),
    }


ORIGINALS = originals()


def stored(source: Source, out: str, size: StoredSize | None) -> Source:
    """The table that ``lbae ingest`` makes of a source, without Ray."""
    plans = ingest_parts.plan_image_parts(source.shards, size)
    parts = [ingest_parts.ingest_part(out, index, shards, size) for index, shards in plans]
    publish_images(Output(out, "image table", parents={}, config={}), parts, {"bad": 0})
    return plan(out)


@pytest.fixture
def images(tmp_path) -> Source:
    image_table(tmp_path / "source" / "a.parquet", list(ORIGINALS.values()), name=list(ORIGINALS))
    return plan(str(tmp_path / "source"))


@pytest.mark.parametrize("config", [COLOUR, GREY], ids=["colour", "grey"])
def test_a_stored_table_decodes_to_the_pixels_of_the_original_images(images, tmp_path, config):
    size = StoredSize(side=config.content_size, channels=config.image_channels)
    (found,) = decode_every(stored(images, str(tmp_path / "table"), size), config)
    assert found.rows["name"].to_pylist() == list(ORIGINALS)
    for name, pixels in zip(ORIGINALS, found.images, strict=True):
        assert (pixels == decode_image(ORIGINALS[name], config)).all(), name


def test_grey_images_stored_in_colour_decode_alike_for_a_grey_model(images, tmp_path):
    table = stored(images, str(tmp_path / "table"), StoredSize(side=28, channels=3))
    (found,) = decode_every(table, GREY)
    for name, pixels in zip(ORIGINALS, found.images, strict=True):
        if name.startswith(("grey", "16", "floats", "bits")):
            assert (pixels == decode_image(ORIGINALS[name], GREY)).all(), name


def test_undecodable_images_are_those_that_a_model_cannot_decode(tmp_path):
    cells = [encode_png(np.zeros((80, 80, 3), dtype=np.uint8)), b"no image", None, ORIGINALS["JPEG"][:-900]]
    image_table(tmp_path / "source" / "a.parquet", cells)
    direct = [part.quarantine.to_pylist() for part in decode_every(plan(str(tmp_path / "source")), COLOUR)]
    stored(plan(str(tmp_path / "source")), str(tmp_path / "table"), StoredSize(side=32, channels=3))
    quarantine = pq.read_table(tmp_path / "table" / "quarantine").to_pylist()
    assert quarantine == direct[0]
    assert [row["key"] for row in quarantine] == ["a.parquet:1", "a.parquet:2", "a.parquet:3"]


def test_parts_are_of_about_256_mb_as_written(images, monkeypatch):
    monkeypatch.setattr("lbae.io.sources.plan.ROWS_PER_SHARD", 2)
    shards = plan(images.uri).shards
    assert len(ingest_parts.plan_image_parts(shards)) == 1
    monkeypatch.setattr(ingest_parts, "_PART_BYTES", 4 * 256**2 * 3)
    whole = ingest_parts.plan_image_parts(shards, StoredSize(side=256, channels=3))
    assert [sum(shard.rows for shard in some) for _, some in whole] == [4] * 5 + [2]


def test_a_copy_of_a_stored_table_still_says_the_size(images, tmp_path):
    size = StoredSize(side=32, channels=1)
    once = stored(images, str(tmp_path / "once"), size)
    twice = stored(once, str(tmp_path / "twice"), None)
    assert (images.stored, once.stored, twice.stored) == (None, size, size)
    assert plan(str(tmp_path / "twice" / "data")).stored == size, "without the manifest too"
    both = [*read_shard(once.shards[0])["bytes"].to_pylist()]
    assert both == read_shard(twice.shards[0])["bytes"].to_pylist()


@pytest.mark.parametrize(
    ("side", "channels", "found", "remedy"),
    [
        (28, 3, "28 x 28 pixels in RGB", "--size 32$"),
        (32, 1, "32 x 32 pixels in grey", "--size 32 without --grey$"),
    ],
)
def test_smaller_or_grey_images_are_refused(images, tmp_path, side, channels, found, remedy):
    table = stored(images, str(tmp_path / "table"), StoredSize(side=side, channels=channels))
    message = (
        f"^the images of .*/table were stored at {found} .*, and 32 x 32 pixels in RGB are wanted.*{remedy}"
    )
    with pytest.raises(UserError, match=message):
        table.check_stored(32, 3)


def test_a_larger_or_coloured_table_is_accepted():
    for side, channels in ((32, 3), (33, 3), (1024, 3)):
        StoredSize(side=side, channels=channels).check_holds(32, 1, "x")


@pytest.mark.parametrize("text", [b"", b"32", b"0,3", b"32,2", b"99999,3", b"-1,3", b"32,3 "])
def test_a_damaged_size_is_named(tmp_path, text):
    image_table(tmp_path / "a.parquet", [ORIGINALS["grey"]])
    table = pq.read_table(tmp_path / "a.parquet")
    pq.write_table(table.replace_schema_metadata({b"lbae.image_shape": text}), tmp_path / "a.parquet")
    with pytest.raises(
        UserError, match=r"a\.parquet is damaged: its lbae.image_shape is b" + re.escape(f"{str(text)[1:]}")
    ):
        plan(str(tmp_path))
