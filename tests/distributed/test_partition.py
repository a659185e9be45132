"""The rows that a partition is learned from, and the tables that are refused."""

import math

import numpy as np
import pyarrow as pa
import pytest

from lbae import presets
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.network.codec import Codec
from lbae.distributed.fit.partition import (
    Subset,
    _decoded_rows,
    cluster_counts,
    cluster_partitions,
    column_partition,
    subset_of,
)
from lbae.distributed.latent_table.drawn_rows import draw_rows
from lbae.distributed.latent_table.table_scan import scan
from lbae.errors import UserError
from lbae.io.artifacts.bundle_artifact import load_bundle
from lbae.io.artifacts.latent_tables import LatentTables, open_latent_tables
from lbae.io.sources.hashes import held_out
from tests.conftest import ROOT, write_latents

N = 11


def random_latents(rows: int) -> np.ndarray:
    return np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.int8), size=(rows, N))


def subset(table: LatentTables, by: str | None = None, components: int = 1, most: int = 60_000) -> Subset:
    drawn = draw_rows(table, scan(table, []), ["key", "latent", *([by] if by else [])], most)
    return subset_of(drawn, N, components)


@pytest.fixture(scope="module")
def codec():
    return load_bundle(str(ROOT / "tests" / "golden" / "v1" / "bundle"), "cpu").codec


def test_the_subset_does_not_depend_on_the_order_of_rows(ray_session, tmp_path):
    latents, labels, drawn = random_latents(400), np.arange(400) // 100, []
    for order in (np.arange(400), np.random.default_rng(1).permutation(400)):
        columns = {"label": labels[order].tolist()}
        table = open_latent_tables(
            write_latents(tmp_path / str(order[0]), latents[order], columns, numbers=order)
        )
        drawn.append(subset(table, "label"))
    np.testing.assert_array_equal(drawn[0].latents, drawn[1].latents)
    assert drawn[0].sample.equals(drawn[1].sample)
    first = drawn[0].sample["label"].to_pylist()[:100]
    assert min(first.count(label) for label in range(4)) > 10, (
        "the subset mixes the classes of a sorted table"
    )


def test_a_column_known_only_for_held_out_rows_is_refused(ray_session, tmp_path):
    held = held_out(pa.array([f"k{row}" for row in range(200)]))
    labels = [row % 2 if held[row] else None for row in range(200)]
    table = open_latent_tables(write_latents(tmp_path / "latents", random_latents(200), {"label": labels}))
    found = scan(table, ["label"])
    with pytest.raises(
        UserError, match=rf"column 'label' has a value in {held.sum()} of the 200 rows .*all of them held out"
    ):
        column_partition(subset(table, "label"), found, "label")


@pytest.mark.parametrize("values", [list(range(201)), [None] * 201])
def test_a_column_with_too_many_values_or_none_is_refused(ray_session, tmp_path, values):
    column = {"id": pa.array(values, pa.int64())}
    table = open_latent_tables(write_latents(tmp_path / "latents", random_latents(201), column))
    found = scan(table, ["id"])
    with pytest.raises(UserError, match="column 'id' has more than 200 distinct values, or none"):
        column_partition(subset(table, "id"), found, "id")


def test_a_table_with_only_held_out_rows_is_refused(ray_session, tmp_path, codec):
    numbers = np.flatnonzero(held_out(pa.array([f"k{row}" for row in range(100)])))[:3]
    table = open_latent_tables(write_latents(tmp_path / "latents", random_latents(3), numbers=numbers))
    with pytest.raises(UserError, match="all 3 rows are held out of clustering"):
        next(cluster_partitions(table, subset(table), codec, 0, None, 0))


def test_no_image_is_decoded_for_a_single_cluster(ray_session, tmp_path):
    table = open_latent_tables(write_latents(tmp_path / "latents", random_latents(30)))
    codec = Codec(LatentBernoulliAutoencoder(presets.get("demo").model), "float32")  # of other latents
    (one,) = cluster_partitions(table, subset(table), codec, 0, 1, 0)
    assert one.partitioner is None
    assert one.labels.tolist() == [0] * 30


def test_labels_of_the_sample_are_those_that_an_exact_fit_gives(ray_session, tmp_path, codec):
    table = open_latent_tables(write_latents(tmp_path / "latents", random_latents(400)))
    whole = subset(table)
    (found,) = cluster_partitions(table, whole, codec, 0, 5, 0)
    np.testing.assert_array_equal(found.labels, found.partitioner(whole.sample))
    assert len(set(found.labels)) == 5


def test_the_subset_is_the_start_of_a_larger_sample(ray_session, tmp_path, monkeypatch):
    monkeypatch.setattr("lbae.distributed.fit.partition._SUBSET_ROWS", 100)
    table = open_latent_tables(write_latents(tmp_path / "latents", random_latents(1000)))
    small, large = (
        subset(table, components=components, most=most) for components, most in ((1, 100), (30, 990))
    )
    assert large.sample.slice(0, len(small.sample)).equals(small.sample)
    np.testing.assert_array_equal(large.latents, small.latents)
    assert 70 < len(small.latents) < 130
    assert 280 < len(large.sample) < 380, "11 bits for each of 30 components"


@pytest.mark.parametrize("preset", ["mnist", "celeba256"])
def test_the_pixels_decoded_at_a_time_are_bounded(preset):
    config = presets.get(preset).model
    rows = _decoded_rows(Codec(LatentBernoulliAutoencoder(config), "float32"))
    assert 1 <= rows <= 4096
    assert rows * math.prod(config.image_shape) <= 2**24


def test_attributes_count_towards_the_size_of_a_prior(ray_session, tmp_path, codec):
    table = open_latent_tables(write_latents(tmp_path / "latents", random_latents(4000)))
    assert (cluster_counts(table, 0)[0], cluster_counts(table, 2000)[0]) == (200, 50)
