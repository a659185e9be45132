"""The stages on a real local Ray: their artifacts, agreement with single-process code, and refused inputs."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.exceptions import RayError
from scipy.special import ndtr

import lbae
from lbae import presets
from lbae.core.latents.packing import pack, unpack
from lbae.core.moments.attribute_statistics import attribute_statistics
from lbae.core.moments.moment_accumulator import sum_packed
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.distributed.cluster.failures import root_cause
from lbae.errors import LbaeError, UserError
from lbae.io.artifacts.bundle_artifact import load_bundle
from lbae.io.artifacts.describe import describe
from lbae.io.artifacts.latent_table import open_latent_table, packed_latents
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.artifacts.model_artifact import load_network, save_model
from lbae.io.artifacts.moments_artifact import Lineage, load_moments, save_moments
from lbae.io.artifacts.output import Output
from lbae.io.sources.decode import decode_every
from lbae.io.sources.plan import plan
from lbae.jobs.build.encode import encode
from lbae.jobs.build.evaluate import evaluate
from lbae.jobs.build.fit import fit
from lbae.jobs.build.reduce import reduce
from lbae.jobs.build.train import train
from tests.conftest import image_table, write_latents


def latents_of(uri: str) -> dict[str, bytes]:
    table = open_latent_table(uri)
    rows = pa.concat_tables(table.read(part) for part in table.parts)
    return dict(zip(rows["key"].to_pylist(), rows["latent"].to_pylist(), strict=True))


def test_training_learns_and_publishes_the_best_epoch(pipeline):
    result = pipeline.results[0]
    losses = [epoch["validation_loss"] for epoch in result["history"]]
    assert losses[-1] < losses[0]
    assert result["best_epoch"] == 1 + int(np.argmin(losses))
    assert result["images"] + result["bad"] < 600
    _, config, manifest = load_network(pipeline.model)
    assert (config.train.epochs, config.train.batch_size, manifest.config["workers"]) == (12, 128, 2)


def test_the_table_holds_every_image_once_with_the_models_latents(pipeline):
    images = [
        (key, image)
        for part in decode_every(plan(str(pipeline.data)), load_network(pipeline.model)[1].model)
        for key, image in zip(part.rows["key"].to_pylist(), part.images, strict=True)
    ]
    found = latents_of(pipeline.latents)
    assert sorted(found) == sorted(key for key, _ in images)
    assert pipeline.results[1]["rows"] == 600
    codec = lbae.load_model(pipeline.model, precision=pipeline.results[1]["precision"])
    z = codec.encode(np.stack([image for _, image in images]))
    packed = np.stack([np.frombuffer(found[key], dtype=np.uint8) for key, _ in images])
    # Threads may split a product differently than in the actor, so bits whose activation is zero to rounding
    # may differ.
    assert (unpack(packed, z.shape[1]) != z).mean() < 0.001


@pytest.mark.parametrize("tasks", [1, 2, 7])
def test_sums_do_not_depend_on_the_number_of_tasks(pipeline, tmp_path, tasks):
    reduce(latents=pipeline.latents, out=str(tmp_path / "m"), tasks=tasks)
    sums, _ = load_moments(str(tmp_path / "m"))
    table = open_latent_table(pipeline.latents)
    rows = pa.concat_tables(table.read(part) for part in table.parts)
    label = np.array(rows["label"].to_pylist())
    present = label[:, None] == np.arange(10)
    expected = sum_packed(packed_latents(rows), table.latent_dim, sums.attributes, present, ~present)
    assert sums.attributes == tuple(f"label={i}" for i in range(10))
    np.testing.assert_array_equal(sums.sums, expected.sums)
    assert read_manifest(str(tmp_path / "m")).fingerprint == pipeline.results[2]["fingerprint"]


def test_a_bundle_does_everything_without_ray(pipeline):
    bundle = load_bundle(pipeline.bundle)
    images = next(iter(decode_every(plan(str(pipeline.data)), bundle.codec.config))).images[:9]
    assert bundle.sample(5, seed=1).shape == (5, 28, 28, 1)
    np.testing.assert_array_equal(bundle.sample(5, seed=1), bundle.sample(300, seed=1)[:5])
    ends = bundle.interpolate(images[:2], 7)[[0, -1]]
    np.testing.assert_array_equal(ends, bundle.reconstruct(images[:2]))
    fresh = attribute_statistics(load_moments(pipeline.moments)[0])
    np.testing.assert_array_equal(bundle.attributes.set_count, fresh.set_count)
    np.testing.assert_array_equal(bundle.attributes.unset_count, fresh.unset_count)
    for method in ("bits", "exchange"):
        edited, changed = bundle.edit(images, ["label=7"], ["label=1"], method=method)
        assert edited.shape == images.shape
        assert 0 < changed.max() < bundle.prior.latent_dim


def test_weights_and_sums_of_components_add_up(pipeline, tmp_path):
    result = fit(**pipeline.made_from, out=str(tmp_path / "b"), by="label")
    bundle = load_bundle(str(tmp_path / "b"))
    sums, _ = load_moments(pipeline.moments)
    n = sums.latent_dim
    assert result["components"] == 10
    assert result["constant_bits"] == (np.abs(sums.mean) == 1).sum()
    np.testing.assert_allclose(bundle.prior.weights, sums.sums[n : n + 10, -1] / sums.count)


def test_auto_takes_the_most_components_that_do_not_memorize(pipeline, tmp_path):
    result = fit(**pipeline.made_from, out=str(tmp_path / "b"))
    # 600 rows are too few for 50 components of 128 bits.
    assert [tried["components"] for tried in result["tried"]] == [10, 1][: len(result["tried"])]
    assert [tried["remembers"] for tried in result["tried"][:-1]] == [True] * (len(result["tried"]) - 1)
    for tried in result["tried"]:
        drawn, unseen = (
            np.array(tried[name]["percentiles_1_50"]) for name in ("nearest", "nearest_held_out")
        )
        copies, held_out = (
            tried[name]["copies"] / tried[name]["queries"] for name in ("nearest", "nearest_held_out")
        )
        assert tried["remembers"] == bool((drawn < unseen).any() or copies > held_out)
    assert result["components"] == result["tried"][-1]["components"]


def test_clusters_hold_images_that_look_alike(pipeline, tmp_path):
    fit(**pipeline.made_from, out=str(tmp_path / "b"), components="10")
    prior = load_bundle(str(tmp_path / "b")).prior
    class_share = ndtr(
        prior.factors[:, 1 : 1 + len(prior.attributes), 0]
    )  # the thresholds encode P(class | component)
    assert prior.weights @ class_share.max(axis=1) > 0.3  # 0.19 for random components of 60 rows


@pytest.mark.parametrize("options", [{"components": "4"}, {"components": "1"}, {"by": "label"}])
def test_a_fit_of_all_rows_is_that_of_a_sample_which_holds_them_all(ray_session, pipeline, tmp_path, options):
    for name, exact in (("sample", False), ("all", True)):
        fit(**pipeline.made_from, out=str(tmp_path / name), exact=exact, **options)
    sampled, exact_ = (load_bundle(str(tmp_path / name), "cpu").prior for name in ("sample", "all"))
    np.testing.assert_array_equal(sampled.factors, exact_.factors)
    np.testing.assert_array_equal(sampled.weights, exact_.weights)
    assert not (tmp_path / "all" / "by-component").exists()


@pytest.mark.parametrize("sampler", ["hyperplane", "gaussian"])
def test_a_bundle_draws_with_the_sampler_it_was_fitted_with(pipeline, tmp_path, sampler):
    result = fit(**pipeline.made_from, out=str(tmp_path / "b"), components="3", sampler=sampler)
    prior = load_bundle(str(tmp_path / "b")).prior
    assert (prior.sampler, len(prior.factors), result["components"]) == (sampler, 3, 3)
    assert (prior.latent_dim, prior.attributes) == (128, tuple(f"label={i}" for i in range(10)))
    table = open_latent_table(pipeline.latents)
    mean = unpack(packed_latents(pa.concat_tables(table.read(part) for part in table.parts)), 128).mean(
        axis=0
    )
    assert np.sqrt(np.mean((prior.sample(20_000, 0).mean(axis=0) - mean) ** 2)) < 0.05


def test_every_stage_run_again_says_already(pipeline):
    again = [
        train(
            data=str(pipeline.data), out=pipeline.model, preset="demo", epochs=12, workers=2, gpus=4
        ),  # a finished run does not wait for GPUs
        encode(model=pipeline.model, data=str(pipeline.data), out=pipeline.latents),
        reduce(latents=pipeline.latents, out=pipeline.moments),
        fit(**pipeline.made_from, out=pipeline.bundle),
    ]
    for result, first in zip(again, pipeline.results, strict=False):
        assert result == {**first, "already": True}


def test_bad_images_are_quarantined_counted_and_bounded(pipeline, tmp_path):
    good = pq.read_table(pipeline.data / "b.parquet").slice(0, 60)["image"].to_pylist()
    cells = [cell["bytes"] for cell in good]
    cells[7], cells[20] = b"not an image", None
    image_table(tmp_path / "data.parquet", cells, label=list(range(60)))
    data, out = str(tmp_path / "data.parquet"), str(tmp_path / "latents")
    with pytest.raises(
        LbaeError, match=r"2 of 60 images .* could not be decoded, more than the allowed"
    ) as error:
        encode(model=pipeline.model, data=data, out=out)
    assert error.value.exit_code == 1
    result = encode(model=pipeline.model, data=data, out=out, max_bad_fraction=0.05)
    assert (result["rows"], result["bad"]) == (58, 2)
    quarantine = pq.read_table(f"{out}/quarantine")
    assert quarantine["key"].to_pylist() == ["data.parquet:7", "data.parquet:20"]
    assert "not in an allowed format" in quarantine["error"][0].as_py()
    assert sorted(latents_of(out)) == sorted(f"data.parquet:{i}" for i in range(60) if i not in (7, 20))


def test_artifacts_of_different_models_are_refused_by_fingerprint(pipeline, tmp_path):
    other = str(tmp_path / "other")
    config = presets.get("demo").replace(latent_dim=32)
    output = Output(other, "model", parents={}, config=config.to_dict())
    save_model(output, LatentBernoulliAutoencoder(config.model), config, {"images": 0})
    theirs, ours = read_manifest(other).fingerprint, read_manifest(pipeline.model).fingerprint
    with pytest.raises(UserError, match=f"was made with model {ours}, not with model {theirs}"):
        fit(model=other, latents=pipeline.latents, moments=pipeline.moments, out=str(tmp_path / "b"))
    table = str(tmp_path / "latents")
    encode(model=other, data=str(pipeline.data), out=table)
    with pytest.raises(
        UserError, match=f"moment sums .* was made with model {ours}, not with model {theirs}"
    ):
        fit(model=other, latents=table, moments=pipeline.moments, out=str(tmp_path / "b"))
    assert not (tmp_path / "b").exists()


def test_sums_of_other_tables_are_refused(pipeline, tmp_path):
    sums, manifest = load_moments(pipeline.moments)
    moments, parents = str(tmp_path / "m"), {"model": manifest.parents["model"]}
    output = Output(moments, "moment sums", parents=parents, config={})
    save_moments(output, sums, Lineage(tables={"t1": 500, "t2": 100}, parts={}), {})
    with pytest.raises(UserError, match=r"cover latent tables .* t1 .500., t2 .100.; --latents gives "):
        fit(model=pipeline.model, latents=pipeline.latents, moments=moments, out=str(tmp_path / "b"))


def test_a_prior_from_one_row_is_refused(pipeline, tmp_path):
    _, manifest = load_moments(pipeline.moments)
    model = manifest.parents["model"]
    bits = np.ones((1, 128), dtype=np.int8)
    latents = write_latents(tmp_path / "latents", bits, {}, parts=1, model=model)
    lineage = Lineage(tables={open_latent_table(latents).manifest.fingerprint: 1}, parts={})
    moments = Output(str(tmp_path / "m"), "moment sums", parents={"model": model}, config={})
    save_moments(moments, sum_packed(pack(bits), 128), lineage, {})
    with pytest.raises(UserError, match=r"rows in moment sums .*: 1; a prior needs at least 2"):
        fit(model=pipeline.model, latents=latents, moments=moments.uri, out=str(tmp_path / "b"))


def test_a_damaged_bundle_is_not_loaded(pipeline, tmp_path):
    shutil.copytree(pipeline.bundle, tmp_path / "b")
    weights = tmp_path / "b" / "prior.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\xc0\x7f")
    with pytest.raises(LbaeError, match="do not match its manifest"):
        load_bundle(str(tmp_path / "b"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"components": "0"}, "components is '0'; allowed: auto, or a whole number from 1"),
        ({"components": "601"}, "components is 601; allowed: 1 to the 600 rows"),
        (
            {"components": "600"},
            r"components is 600; allowed: 1 to the 5\d\d rows that are not held out of clustering",
        ),
        ({"components": "3", "by": "label"}, "give --components or --by, not both"),
        ({"by": "lable"}, "unknown class column 'lable'; did you mean 'label'"),
    ],
)
def test_invalid_options_of_fit_are_named(pipeline, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        fit(**pipeline.made_from, out=str(tmp_path / "b"), **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "mnst"}, "unknown preset 'mnst'; did you mean 'mnist'"),
        (
            {"workers": 99, "batch_size": 99},
            "99 CPUs are needed; the cluster has 2 after 1 s: lower --workers",
        ),
        ({"workers": 2, "batch_size": 33}, "batch_size 33 is not a multiple of 2 workers"),
        ({"epochs": 0}, "epochs is 0; allowed: 1 or more"),
        ({"data": "nowhere"}, "data .*nowhere does not exist"),
    ],
)
def test_invalid_options_of_train_are_named(pipeline, tmp_path, monkeypatch, change, message):
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1")
    with pytest.raises(UserError, match=message):
        train(**{"data": str(pipeline.data), "out": str(tmp_path / "m"), "preset": "demo", **change})
    assert not (tmp_path / "m").exists()


def test_negative_seeds_are_refused_before_anything_is_read(tmp_path):
    """Random generators do not accept them."""
    anywhere = dict.fromkeys(("model", "latents", "moments", "out"), str(tmp_path / "x"))
    with pytest.raises(UserError, match="seed is -1; allowed: 0 or more"):
        fit(**anywhere, seed=-1)
    with pytest.raises(UserError, match="seed is -1; allowed: 0 or more"):
        evaluate(bundle=anywhere["model"], data=anywhere["latents"], out=anywhere["out"], seed=-1)


def test_describe_names_kind_lineage_and_bits(pipeline):
    table, sums = describe(pipeline.latents), describe(pipeline.moments)
    assert table["kind"] == "latent table"
    assert table["schema"]["latent"] == "fixed_size_binary[16]"
    assert sums["parents"]["latents"] == table["fingerprint"]
    assert sums["bits"]["latent_dim"] == 128
    assert 0 < sums["bits"]["entropy"] <= 1
    assert 1 < sums["bits"]["effective_rank"] < 128


def test_the_root_cause_is_one_line():
    assert str(root_cause(ValueError("two\nlines"))) == "ValueError: two lines"
    died = RayError("The actor died.\nTraceback:\n  File x\nTypeError: boom")
    assert str(root_cause(died)) == "TypeError: boom"
    user = UserError("mine")
    assert root_cause(RuntimeError("outer")).exit_code == 1
    wrapped = RuntimeError("outer")
    wrapped.__cause__ = user
    assert root_cause(wrapped) is user
