"""``lbae show`` of a model, of an image table with a quarantine, and of a table without decodable images."""

import numpy as np
import pyarrow as pa
import pytest

from lbae import presets
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.io.artifacts import image_table, ingest_parts
from lbae.io.artifacts.describe import describe
from lbae.io.artifacts.latent_table import KIND
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.artifacts.model_artifact import save_model
from lbae.io.artifacts.output import Output
from lbae.io.images import encode_png
from lbae.io.sources.plan import plan
from lbae.io.storage.parquet_file import write_parquet
from tests.conftest import image_table as write_table
from tests.conftest import picture_size, run_job


@pytest.fixture
def ingested(tmp_path) -> str:
    """An image table of two images, ingested from five, of which three are damaged."""
    out, image = str(tmp_path / "table"), encode_png(np.zeros((28, 28, 1), dtype=np.uint8))
    write_table(
        tmp_path / "data" / "a.parquet", [image, b"words", image[:40], None, image], label=list(range(5))
    )
    part = ingest_parts.ingest_part(out, 0, plan(str(tmp_path / "data")).shards)
    output = Output(out, image_table.KIND, parents={"source": "s"}, config={})
    image_table.publish_images(output, [part], {"bad": part.bad})
    return out


def test_a_model(tmp_path):
    out, config = str(tmp_path / "model"), presets.get("demo", "modern")
    output = Output(out, "model", parents={"data": "d"}, config=config.to_dict())
    save_model(output, LatentBernoulliAutoencoder(config.model), config, {"images": 7})
    facts = describe(out)
    assert (facts["kind"], facts["rows"], facts["parents"]) == ("model", 7, {"data": "d"})
    assert facts["config"]["model"]["latent_dim"] == config.model.latent_dim
    assert {"lbae", "torch"} <= facts["packages"].keys()
    assert "bits" not in facts
    assert "quarantine" not in facts


def test_an_image_table_and_the_errors_in_its_quarantine(ingested, tmp_path):
    facts = describe(ingested)
    assert (facts["kind"], facts["rows"], facts["files"], facts["result"]["bad"]) == ("image table", 2, 2, 3)
    assert facts["schema"]["label"] == "int64"
    assert facts["schema"]["image"].startswith("struct<bytes: binary")
    assert sum(facts["quarantine"].values()) == 3
    assert facts["quarantine"]["no bytes"] == 1
    outcome = run_job("show", ingested, "--picture", tmp_path / "picture.png")
    assert outcome.code == 0, outcome.err
    width, height = picture_size(tmp_path / "picture.png")
    assert width > height, "two thumbnails side by side"


def test_a_table_without_decodable_images(tmp_path):
    out = str(tmp_path / "latents")
    config, parents = {"latent_dim": 11, "keep_images": False}, {"model": "m", "data": "d"}
    output = Output(out, KIND, parents=parents, config=config)
    output.publish(fingerprint="f", rows=0, files=[], result={"bad": 3})
    assert describe(out)["rows"] == 0
    outcome = run_job("show", out, "--picture", tmp_path / "picture.png")
    assert outcome.code == 2
    assert "holds no latents, so there is nothing to draw" in outcome.error
    outcome = run_job("search", "--latents", out, "--image", tmp_path / "picture.png")
    assert outcome.code == 2
    assert "holds no rows; there is nothing to search" in outcome.error


def test_the_fingerprint_of_an_image_table_covers_its_labels():
    cells = [{"bytes": b"a", "path": "a"}, {"bytes": b"b", "path": "b"}]
    tables = [pa.table({"image": cells, **labels}) for labels in ({}, {"label": [1, 2]}, {"label": [2, 1]})]
    assert len({tuple(image_table.rows_of(table)) for table in tables}) == 3


def test_a_quarantine_of_many_long_errors_is_summed_up(ingested):
    errors = ["x" * 5000, "x" * 6000, None, *(f"error {i}: why" for i in range(300))]
    table = pa.table({name: pa.array(errors, pa.string()) for name in ("key", "path", "error")})
    (name,) = [name for name in read_manifest(ingested).files if name.startswith("quarantine/")]
    write_parquet(ingested, name, table)
    found = describe(ingested)["quarantine"]
    assert (found["x" * 100], found["None"], found["error 0"]) == (2, 1, 1)
    assert (len(found), sum(found.values())) == (201, len(errors))


def test_a_table_of_many_rows_is_sampled(tmp_path):
    out, rows = str(tmp_path / "latents"), 2**20
    output = Output(out, KIND, parents={"model": "m", "data": "d"}, config={"latent_dim": 8})
    keys, packed = pa.array(["k"] * rows), np.zeros((rows, 1), dtype=np.uint8)
    table = pa.table(
        {
            "key": keys,
            "latent": pa.FixedSizeBinaryArray.from_buffers(pa.binary(1), rows, [None, pa.py_buffer(packed)]),
        },
        metadata={"lbae.model_fingerprint": "m"},
    )
    write_parquet(out, "data/part-00000.parquet", table)
    output.publish(fingerprint="f", rows=rows, files=["data/part-00000.parquet"], result={"bad": 0})
    assert describe(out)["bits"]["rows_read"] == 2**19
