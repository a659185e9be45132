"""Every kind of source becomes an image table with the same rows."""

import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from lbae import presets
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.distributed.digests import repeated_rows
from lbae.errors import LbaeError, UserError
from lbae.io.artifacts import ingest_parts
from lbae.io.artifacts.attribute_columns import candidate_columns
from lbae.io.artifacts.describe import describe
from lbae.io.artifacts.image_table import publish_images
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.artifacts.model_artifact import save_model
from lbae.io.artifacts.output import Output
from lbae.io.images import encode_png
from lbae.io.sources.plan import plan
from lbae.io.sources.source import read_shard
from lbae.jobs.build.encode import encode
from lbae.jobs.build.ingest import ingest
from lbae.jobs.build.train import train
from tests.conftest import ROOT, image_table


def rows(uri) -> dict[str, tuple]:
    """Bytes and label of every image, by its key in the ingested source."""
    found = {}
    for shard in plan(str(uri)).shards:
        table = read_shard(shard)
        names = table["path" if str(uri).endswith("table") else "key"].to_pylist()
        found |= dict(
            zip(names, zip(table["bytes"].to_pylist(), table["label"].to_pylist(), strict=True), strict=True)
        )
    return found


def test_a_folder_becomes_an_image_table(ray_session, folder_of_images, tmp_path):
    data, out = tmp_path / "images", tmp_path / "table"
    for path in folder_of_images.rglob("*.png"):
        (data / path.parent.name).mkdir(parents=True, exist_ok=True)
        (data / path.parent.name / path.name).write_bytes(path.read_bytes())
    good = rows(data)
    (data / "dark" / "bad.png").write_bytes(b"no image")
    with pytest.raises(LbaeError, match=rf"1 of 41 images .*the first is dark/bad.png .*{out}/quarantine"):
        ingest(source=str(data), out=str(out))
    assert rows(out) == good
    assert pq.read_table(out / "quarantine")["key"].to_pylist() == ["dark/bad.png"]
    again = ingest(source=str(data), out=str(out), max_bad_fraction=0.1)
    assert (again["already"], again["rows"], again["bad"]) == (True, 40, 1)


def test_an_output_in_its_source_is_refused_and_nothing_is_removed(tmp_path):
    image_table(tmp_path / "source" / "a.parquet", [encode_png(np.zeros((28, 28, 1), dtype=np.uint8))])
    source, within = str(tmp_path / "source"), str(tmp_path / "source" / "table")
    for out, read in ((source, source), (within, source)):
        parts = [
            ingest_parts.ingest_part(out, *part)
            for part in ingest_parts.plan_image_parts(plan(source).shards)
        ]
        publish_images(Output(out, "image table", parents={}, config={}), parts, {"bad": 0})
        before = sorted((tmp_path / "source").rglob("*"))
        message = rf"the output {out} lies in the data {read}, and later jobs would read it"
        with pytest.raises(UserError, match=message):
            ingest(source=source, out=out, overwrite=True)
        assert sorted((tmp_path / "source").rglob("*")) == before


def test_the_paths_of_a_table_are_kept_beside_the_keys(ray_session, tmp_path):
    image = encode_png(np.zeros((28, 28, 1), dtype=np.uint8))
    image_table(tmp_path / "data" / "a.parquet", [image, image], key=["x", "y"], label=[1, 2])
    image_table(tmp_path / "data" / "b.parquet", [image])
    once, twice = str(tmp_path / "once"), str(tmp_path / "twice")
    ingest(source=str(tmp_path / "data"), out=once)
    found = pq.read_table(tmp_path / "once" / "data")
    assert found.column_names == ["image", "image_path", "source_key", "label"]
    assert found["image"].combine_chunks().field("path").to_pylist() == [
        "a.parquet:0",
        "a.parquet:1",
        "b.parquet:0",
    ]
    rest = {"image_path": ["0.png", "1.png", "0.png"], "source_key": ["x", "y", None], "label": [1, 2, None]}
    assert found.drop_columns("image").to_pydict() == rest
    assert candidate_columns(found.schema) == ["label"]
    ingest(source=once, out=twice)
    assert pq.read_table(tmp_path / "twice" / "data").drop_columns("image").to_pydict() == rest


@pytest.mark.parametrize(("layout", "held"), [("folder", 2**21), ("table", 3)])
def test_distinct_keeps_the_first_of_byte_identical_images(ray_session, tmp_path, monkeypatch, layout, held):
    monkeypatch.setattr("lbae.io.sources.plan.ROWS_PER_SHARD", 3)
    monkeypatch.setattr(repeated_rows, "HELD_ROWS", held)
    monkeypatch.setattr(repeated_rows, "_BUCKET_ROWS", 2)
    black, white = (encode_png(np.full((28, 28, 1), level, dtype=np.uint8)) for level in (0, 255))
    cells = [white, black, b"", white, b"", white, black, black]
    data, out = tmp_path / "data", tmp_path / "table"
    if layout == "table":
        image_table(data / "a.parquet", cells)
        names = [f"a.parquet:{row}" for row in range(len(cells))]
    else:
        names = [f"{row}.png" for row in range(len(cells))]
        data.mkdir()
        for name, cell in zip(names, cells, strict=True):
            (data / name).write_bytes(cell)
    job = {"source": str(data), "out": str(out), "distinct": True, "max_bad_fraction": 0.5}
    result = ingest(**job)
    assert (result["rows"], result["bad"], result["equal"]) == (2, 2, 4)
    kept = pq.read_table(out / "data")["image"].combine_chunks()
    assert kept.to_pylist() == [{"bytes": white, "path": names[0]}, {"bytes": black, "path": names[1]}]
    assert pq.read_table(out / "quarantine")["key"].to_pylist() == [names[2], names[4]], (
        "equal bad images are quarantined each"
    )
    assert ingest(**job)["already"]
    with pytest.raises(LbaeError, match="2 of 4 images"):
        ingest(**{**job, "max_bad_fraction": 0.4})
    with pytest.raises(UserError, match="distinct"):
        ingest(**{**job, "distinct": False})


def test_files_with_incompatible_columns_are_refused(tmp_path):
    for name, label in (("a", 1), ("b", "cat")):
        image_table(tmp_path / "data" / f"{name}.parquet", [b"x"], label=[label])
    with pytest.raises(
        UserError,
        match=r"data have columns that do not fit together: 'label' is int64 in a.parquet and string in b",
    ):
        ingest(source=str(tmp_path / "data"), out=str(tmp_path / "table"))
    with pytest.raises(UserError, match=r"/proc/table cannot be written: nothing can be created in /proc"):
        ingest(source=str(tmp_path / "data" / "a.parquet"), out="/proc/table")


def test_parts_are_of_a_size_and_a_killed_job_continues(digits, tmp_path, monkeypatch, ray_session):
    out = str(tmp_path / "table")
    monkeypatch.setattr("lbae.io.sources.plan.ROWS_PER_SHARD", 100)
    shards = plan(str(digits)).shards
    whole = sum(shard.size for shard in shards)
    monkeypatch.setattr(ingest_parts, "_PART_BYTES", whole / 3)
    plans = ingest_parts.plan_image_parts(shards)
    assert [index for index, _ in plans] == list(range(len(plans)))
    assert [shard for _, some in plans for shard in some] == list(shards)
    assert 3 <= len(plans) <= 5
    first = ingest_parts.ingest_part(out, *plans[0])
    before = (tmp_path / "table" / first.files[0]).stat().st_mtime_ns
    assert ingest_parts.ingest_part(out, *plans[0]) == first
    assert (tmp_path / "table" / first.files[0]).stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size is 0; allowed: 1 to 1024 pixels"),
        ({"size": 1025}, "size is 1025; allowed"),
        ({"grey": True}, "grey is given without size; give --size N"),
    ],
)
def test_wrong_sizes_are_named(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        ingest(source="nowhere", out=str(tmp_path / "table"), **options)


def test_a_table_stored_at_a_smaller_size_is_refused_by_every_job(ray_session, tmp_path):
    image_table(tmp_path / "data" / "a.parquet", [encode_png(np.zeros((90, 80, 3), dtype=np.uint8))] * 3)
    original, table, out = (str(tmp_path / name) for name in ("data", "table", "out"))
    job = {"source": original, "out": table, "size": 28}
    assert ingest(**job)["rows"] == 3
    assert ingest(**job)["already"]
    assert describe(table)["config"] == {"size": 28, "channels": 3}
    with pytest.raises(UserError, match="size was 28, is now 32"):
        ingest(**{**job, "size": 32})
    assert [row["bytes"][:12] for row in pq.read_table(tmp_path / "table" / "data")["image"].to_pylist()] == [
        b"P6\n28 28\n255"
    ] * 3
    model = str(tmp_path / "model")
    config = presets.get("cifar10")
    output = Output(model, "model", parents={}, config=config.to_dict())
    save_model(output, LatentBernoulliAutoencoder(config.model), config, {"images": 0})
    for use in (
        lambda: train(data=table, out=out, preset="cifar10"),
        lambda: train(data=original, test_data=table, out=out, preset="cifar10"),
        lambda: encode(model=model, data=table, out=out),
        lambda: ingest(source=table, out=out, size=32),
    ):
        with pytest.raises(
            UserError, match=r"stored at 28 x 28 pixels in RGB .* 32 x 32 pixels in RGB are wanted"
        ):
            use()
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_kills_lose_and_duplicate_nothing(digits, tmp_path, ray_session):
    whole = ingest(source=str(digits), out=str(tmp_path / "whole"), distinct=True)
    command = [
        sys.executable,
        "jobs/ingest.py",
        "--source",
        str(digits),
        "--out",
        str(tmp_path / "killed"),
        "--distinct",
    ]
    killed, out = 0, tmp_path / "killed"
    for moment in (".unfinished", "data/part-00000.parquet"):
        job = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while job.poll() is None and not (out / moment).exists():
            time.sleep(0.005)
        killed += job.poll() is None
        job.kill()
        job.communicate()
        (tmp_path / "killed.lock").unlink(missing_ok=True)  # else the next job waits for it
    assert killed, "one job at least must be killed; the second may finish first"
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert read_manifest(str(tmp_path / "killed")).fingerprint == whole["fingerprint"]
