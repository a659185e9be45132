"""When a pipeline stores its images at the model's size before training, and what its stages then read."""

import functools
import json

import numpy as np
import pytest

from lbae.io.artifacts.manifest import read_manifest
from lbae.io.images import encode_png
from lbae.io.sources.plan import plan
from lbae.io.sources.stored_size import StoredSize
from lbae.jobs.build.ingest import ingest
from lbae.jobs.build.train import train
from lbae.jobs.decode_once import ingest_first
from tests.conftest import image_table

STREAMING = {"preset": "demo", "feed": "streaming", "workers": 1}


@pytest.fixture
def digits_of(tmp_path):
    """An image table of blurred blocks with this many pixels per side."""

    def write(side: int) -> str:
        rng = np.random.default_rng(0)
        blocks = rng.integers(0, 256, (320, 8, 8, 1), dtype=np.uint8)
        cells = [encode_png(block.repeat(side // 8, axis=0).repeat(side // 8, axis=1)) for block in blocks]
        path = tmp_path / f"{side}" / "a.parquet"
        image_table(path, cells, label=list(range(320)))
        return str(path.parent)

    return write


@pytest.mark.parametrize(
    ("side", "change", "expected"),
    [
        (64, {}, True),
        (40, {}, False),
        (64, {"feed": "resident"}, False),
        (64, {"feed": "auto"}, False),
        (64, {"epochs": 1}, False),
        (64, {"kind": "table"}, False),
    ],
)
def test_images_are_stored_first_where_every_epoch_decodes_large_ones(
    ray_session, digits_of, tmp_path, side, change, expected
):
    given = {"data": digits_of(side), "out": str(tmp_path / "model"), **STREAMING, **change}
    call = ingest_first(None, str(tmp_path / "images"), functools.partial(train, **given))
    assert (call is not None) == expected
    if call:
        assert call.keywords == {
            "source": given["data"],
            "out": str(tmp_path / "images"),
            "size": 28,
            "grey": True,
        }


def test_a_pipeline_that_ran_before_keeps_its_choice(ray_session, digits_of, tmp_path):
    given = {"data": digits_of(64), "out": str(tmp_path / "model"), **STREAMING}
    call = functools.partial(ingest_first, None, str(tmp_path / "images"), functools.partial(train, **given))
    (tmp_path / "model-checkpoints").mkdir()
    assert call() is None
    (tmp_path / "images").mkdir()
    assert call() is not None
    off = ingest_first(False, str(tmp_path / "images"), functools.partial(train, **given))
    assert off is None


def test_stored_images_are_not_stored_again(ray_session, digits_of, tmp_path):
    table = str(tmp_path / "table")
    ingest(source=digits_of(64), out=table, size=56)
    assert plan(table).stored == StoredSize(side=56, channels=3)
    given = {"data": table, "out": str(tmp_path / "model"), **STREAMING}
    assert ingest_first(None, str(tmp_path / "images"), functools.partial(train, **given)) is None


@pytest.mark.slow
def test_all_stages_read_the_stored_images(job, digits_of, tmp_path):
    config, out = tmp_path / "c.toml", tmp_path / "out"
    training = 'preset = "demo"\nepochs = 2\nworkers = 1\nbatch_size = 32\nfeed = "streaming"'
    config.write_text(f'data = "{digits_of(64)}"\nout = "{out}"\n[train]\n{training}\n[fit]\ncomponents = 1')
    done = job("pipeline", "--config", config)
    assert done.code == 0, done.err
    assert "decode once: yes, because the shorter side of the images is 64 pixels, the model's 28" in done.err
    assert list(json.loads(done.out)["stages"]) == ["ingest", "train", "encode", "reduce", "fit"]
    table = plan(f"{out}/images")
    assert table.stored == StoredSize(side=28, channels=1)
    for name in ("model", "latents"):
        assert read_manifest(f"{out}/{name}").parents["data"] == table.fingerprint
    again = job("pipeline", "--config", config)
    assert json.loads(again.out)["already"], again.err
