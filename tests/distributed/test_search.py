"""A search of a latent table agrees with brute force."""

import json

import faiss
import numpy as np
import pytest

from lbae.core.latents.packing import pack
from lbae.distributed.latent_table.neighbours import nearest_in
from lbae.io.artifacts.latent_table import open_latent_table
from lbae.io.sources.plan import plan
from lbae.io.sources.source import read_shard
from lbae.jobs.inspect.export import export
from tests.conftest import picture_size, write_latents


@pytest.mark.parametrize("k", [1, 20, 2000])
def test_a_search_agrees_with_brute_force(ray_session, tmp_path, k):
    rng = np.random.default_rng(0)
    latents = rng.choice(np.array([-1, 1], dtype=np.int8), size=(1000, 90))
    table = open_latent_table(
        write_latents(tmp_path / "latents", latents, {"label": list(range(1000))}, parts=4)
    )
    query = latents[17] * np.where(rng.random(90) < 0.1, -1, 1).astype(np.int8)
    hits = nearest_in(table, pack(np.stack([latents[3], query])), k).hits(1)
    every = (latents != query).sum(axis=1)
    assert [hit.distance for hit in hits] == sorted(every)[:k]
    rows = [table.row(hit.part, hit.row_group, hit.row) for hit in hits]
    assert [every[row["label"]] for row in rows] == [hit.distance for hit in hits]
    assert len({row["key"] for row in rows}) == min(k, 1000)
    assert rows[0] == {"key": "k17", "label": 17}


def test_a_search_agrees_with_an_exported_index(ray_session, tmp_path):
    latents = np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.int8), size=(1000, 90))
    table = open_latent_table(write_latents(tmp_path / "latents", latents, parts=4))
    export(latents=table.uri, out=str(tmp_path / "out"), format="faiss")
    index = faiss.read_index_binary(f"{tmp_path}/out/latents.faiss")
    distances, _ = index.search(np.packbits(latents[:5] > 0, axis=1), 20)
    np.testing.assert_array_equal(nearest_in(table, pack(latents[:5]), 20).distances, distances)


def test_the_job_finds_an_image_of_the_table_and_draws_the_hits(job, digits, encoded_digits, tmp_path):
    (tmp_path / "a.png").write_bytes(read_shard(plan(str(digits)).shards[-1])["bytes"][7].as_py())
    found = job(
        "search",
        "--latents",
        encoded_digits,
        "--image",
        tmp_path / "a.png",
        "--k",
        5,
        "--out",
        tmp_path / "hits.png",
    )
    assert found.code == 0, found.err
    result = json.loads(found.out.splitlines()[-1])
    assert result["rows"] == 600
    assert [hit["distance"] for hit in result["hits"]] == sorted(hit["distance"] for hit in result["hits"])
    assert len(result["hits"]) == 5
    first = result["hits"][0]
    assert (first["key"], first["distance"]) == ("b.parquet:7", 0)
    assert first.keys() == {"distance", "key", "path", "label"}
    width, height = picture_size(tmp_path / "hits.png")
    assert width > 5 * height, "the image and five hits beside it"


def test_invalid_search_requests_are_named(job, encoded_digits, tmp_path):
    for k in (0, -3):
        refused = job("search", "--latents", encoded_digits, "--image", tmp_path / "a.png", "--k", k)
        assert (refused.code, refused.error) == (2, f"error: k is {k}; allowed: 1 or more")
    assert job("search", "--latents", encoded_digits, "--image", tmp_path / "a.png").error.endswith(
        "a.png does not exist"
    )
    (tmp_path / "a.png").write_text("words")
    assert (
        "a.png cannot be read as an image"
        in job("search", "--latents", encoded_digits, "--image", tmp_path / "a.png").error
    )
