"""Drawing an image table on a real local Ray gives the images of a single process."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lbae.core.prior.prior import Prior
from lbae.distributed.cluster.actor_pool import pool_size
from lbae.distributed.sample.table_sampler import sample_table
from lbae.errors import UserError
from lbae.io.artifacts.bundle_artifact import load_bundle
from lbae.io.artifacts.image_table import publish_images, write_part
from lbae.io.artifacts.output import Output

NUM = 2 * 2048 + 300  # three parts, the last with one whole block and a partial one


def test_an_error_of_a_worker_reaches_the_user(pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(
        Prior, "draw", lambda *request: None
    )  # only in this process, so that the workers raise the error
    with pytest.raises(UserError, match="unknown attribute 'label=33'; did you mean 'label=3'"):
        sample_table(
            bundle=pipeline.bundle, out=str(tmp_path / "t"), num=300, seed=0, given={"label=33": True}
        )
    assert not (tmp_path / "t" / "manifest.json").exists()


@pytest.mark.parametrize("given", [{}, {"label=3": True, "label=5": False}])
def test_a_table_holds_the_images_of_one_process(pipeline, tmp_path, given):
    out, bundle = str(tmp_path / "table"), load_bundle(pipeline.bundle)
    request = {"bundle": pipeline.bundle, "out": out, "num": NUM, "seed": 4, "given": given}
    result = sample_table(**request)
    images = bundle.sample(NUM, 4, given)
    files = sorted((tmp_path / "table" / "data").iterdir())
    assert [pq.read_metadata(file).num_rows for file in files] == [2048, 2048, 300]
    rows = pq.read_table(files)["image"].to_pylist()
    assert [row["path"] for row in rows] == [f"{i:08d}.png" for i in range(NUM)]
    drawn = np.stack([np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in rows])
    np.testing.assert_array_equal(drawn[..., None], images)
    assert result["acceptance"] == pytest.approx(bundle.prior.sample_given(NUM, 4, given)[1], rel=1e-12)
    one = str(tmp_path / "one")
    output = Output(one, "image table", parents={}, config={})
    whole = publish_images(output, [write_part(one, 0, 0, images)], {})
    assert (result["fingerprint"], result["rows"]) == (whole["fingerprint"], whole["rows"])
    assert sample_table(**request) == {**result, "already": True}


@pytest.mark.parametrize(
    ("cpus", "gpus", "actors"),
    [(1, 0, 1), (2, 0, 2), (64, 0, 64), (16, 1, 4), (2, 1, 2), (20, 8, 16), (4, 8, 8)],
)
def test_actors_share_gpus_up_to_the_number_of_cpus(cpus, gpus, actors):
    found, share = pool_size(cpus, gpus)
    assert found == actors
    assert found * share == pytest.approx(gpus)
