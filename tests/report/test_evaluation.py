"""Evaluation of the small pipeline: its figures against torch-fidelity's own, and what is refused or left out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch_fidelity
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

import lbae
from lbae.errors import LbaeError
from lbae.io.decode import decode_every
from lbae.io.images import encode_png
from lbae.io.source import plan
from lbae.report.classifier import load_classifier
from lbae.report.distances import distances
from lbae.report.features import METRICS, FeatureSums
from lbae.report.streams import RECONSTRUCTIONS, TEST, TRAIN, Seen, Stream
from tests.conftest import ROOT, Outcome, Pipeline, image_table

FAST = ("--priors", "mixture,coins", "--metrics", "frechet")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def evaluate(job, pipeline: Pipeline, cache: Path):
    """The job on the small pipeline, with other options where given."""

    def call(out: Path, *more: object, **options: object) -> Outcome:
        given = {"bundle": pipeline.bundle, "data": pipeline.data, "cache": cache, "out": out} | options
        words = [word for name, value in given.items() if value for word in (f"--{name.replace('_', '-')}", value)]
        return job("evaluate", *words, *more)

    return call


@pytest.fixture(scope="module")
def whole(evaluate, pipeline, tmp_path_factory) -> Path:
    """An evaluation with every input."""
    out = tmp_path_factory.mktemp("whole") / "evaluation"
    done = evaluate(out, train_data=pipeline.data, latents=pipeline.latents, moments=pipeline.moments)
    assert done.code == 0, done.err
    assert "600 have the key and 600 the bytes of a test image" in done.err
    return out


@pytest.fixture(scope="module")
def report(whole) -> dict:
    return json.loads((whole / "report.json").read_text())


@pytest.fixture(scope="module")
def images(pipeline) -> np.ndarray:
    config = lbae.load_bundle(pipeline.bundle).codec.config
    return np.concatenate([part.images for part in decode_every(plan(str(pipeline.data)), config)])


def by_torch_fidelity(classifier, one: np.ndarray, other: np.ndarray, folder: Path) -> dict[str, float]:
    """What torch-fidelity says of PNG files, with the classifier registered as its feature extractor."""

    class Registered(FeatureExtractorBase):
        def __init__(self, name, features, **options):
            super().__init__(name, features)

        @staticmethod
        def get_provided_features_list():
            return ("features",)

        @staticmethod
        def can_be_compiled():
            return False

        def forward(self, pixels):
            with torch.inference_mode():
                return (classifier(pixels[:, :1].permute(0, 2, 3, 1)),)

    name = f"classifier-{folder.name}"
    torch_fidelity.register_feature_extractor(name, Registered)
    for place, pictures in ((folder / "one", one), (folder / "other", other)):
        place.mkdir(parents=True)
        for index, image in enumerate(pictures):
            (place / f"{index:05d}.png").write_bytes(encode_png(image))
    layers = dict.fromkeys(("feature_layer_fid", "feature_layer_kid", "feature_layer_prc"), "features")
    return torch_fidelity.calculate_metrics(
        input1=str(folder / "one"),
        input2=str(folder / "other"),
        feature_extractor=name,
        fid=True,
        kid=True,
        prc=True,
        kid_subset_size=600,
        cuda=False,
        save_cpu_ram=True,
        verbose=False,
        **layers,
    )


@pytest.mark.parametrize("made", [RECONSTRUCTIONS, "mixture"])
def test_metrics_are_torch_fidelitys_of_the_same_png_files(pipeline, report, images, cache, tmp_path, made):
    bundle = lbae.load_bundle(pipeline.bundle)
    classifier, fingerprint = load_classifier(str(next((cache / "classifiers").iterdir())))
    assert fingerprint == report["fingerprints"]["classifier"]
    others = bundle.reconstruct(images) if made == RECONSTRUCTIONS else bundle.sample(600, seed=0)
    found, theirs = report["distances"][made][TEST], by_torch_fidelity(classifier, others, images, tmp_path)
    assert found["frechet"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)
    assert found["kernel"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3, abs=1e-5)
    assert [found["precision"], found["recall"]] == pytest.approx([theirs["precision"], theirs["recall"]], abs=2 / 600)


def test_a_report_holds_every_figure_and_what_it_depends_on(report, whole):
    priors = ["mixture", "hyperplane", "gaussian", "paper", "direct", "independent", "coins"]
    assert list(report["distances"]) == [TRAIN, RECONSTRUCTIONS, "interpolation mid-points", *priors]
    for name, row in report["distances"].items():
        assert set(row[TEST]) == {"frechet", "kernel", "kernel_deviation", "precision", "recall"}
        assert list(row.get(TRAIN, {})) == ([] if name == TRAIN else ["frechet"])
    assert report["distances"][TRAIN][TEST]["frechet"] == pytest.approx(0, abs=1e-3)
    assert report["distances"]["coins"][TEST]["frechet"] > report["distances"]["mixture"][TEST]["frechet"]
    assert report["images"] == dict.fromkeys([RECONSTRUCTIONS, "interpolation mid-points", *priors], 600)
    assert report["classifier_accuracy"]["label"] > 0.5
    assert set(report["fingerprints"]) == {"bundle", "data", "train_data", "latents", "moments", "classifier"}
    assert report["overlap"] == {"keys": 600, "bytes": 600}
    assert report["left_out"].keys() == {"LPIPS"}
    assert report["nearest"][TEST]["copies"] == 600  # the training images themselves
    assert report["moments_of_samples"]["test latents"]["pairs_max"] == 0
    assert report["interpolation"]["ours"]["wrong_bits_an_end"] == 0
    assert report["interpolation"]["ours"]["flips_of_hamming"] == 1
    assert report["interpolation"]["paper"]["wrong_bits_an_end"] > 0
    assert {edit["attribute"] for edit in report["edits"]} <= {f"label={i}" for i in range(10)}
    page = (whole / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(list(whole.glob("*.png")))
    assert "src=http" not in page.replace('"', "")


def test_reconstruction_errors_are_those_of_the_pixels(pipeline, report, images):
    rebuilt = lbae.load_bundle(pipeline.bundle).reconstruct(images)
    mse = np.square(images / 255 - rebuilt / 255).mean()
    assert report["reconstructions"]["mse"] == pytest.approx(mse, abs=1e-6)
    assert report["reconstructions"]["psnr_db"] == pytest.approx(-10 * np.log10(mse), abs=0.01)
    assert 0 < report["reconstructions"]["ssim"] < 1


@pytest.mark.slow
def test_the_same_again_is_the_same_from_the_cache(evaluate, pipeline, whole, report, tmp_path):
    inputs = {"train_data": pipeline.data, "latents": pipeline.latents, "moments": pipeline.moments}
    assert json.loads(evaluate(whole, **inputs).out.splitlines()[-1])["already"]
    done = evaluate(tmp_path / "again", *FAST, **inputs)
    assert done.code == 0, done.err
    again = json.loads((tmp_path / "again" / "report.json").read_text())
    for name, row in again["distances"].items():
        assert {key: to["frechet"] for key, to in row.items()} == {
            key: to["frechet"] for key, to in report["distances"][name].items()
        }


@pytest.mark.slow
def test_two_nodes_of_which_one_dies_find_the_same(pipeline, report, cache, tmp_path):
    inputs = {"train_data": str(pipeline.data), "latents": pipeline.latents, "moments": pipeline.moments}
    options = {
        "bundle": pipeline.bundle,
        "data": str(pipeline.data),
        "out": str(tmp_path / "e"),
        "cache": str(cache),
        **inputs,
    }
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "tests.distributed.evaluate_on_two_nodes", json.dumps(options)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    assert '{"killed": true}' in done.stdout
    found = json.loads((tmp_path / "e" / "report.json").read_text())
    for name in ("distances", "reconstructions", "nearest", "interpolation", "edits", "overlap", "moments_of_samples"):
        assert found[name] == report[name]


@pytest.mark.slow
def test_the_papers_protocol_compares_jpegs_with_test_images_only(evaluate, pipeline, report, tmp_path):
    done = evaluate(tmp_path / "e", *FAST, "--protocol", "paper", train_data=pipeline.data)
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "e" / "report.json").read_text())
    assert [list(row) for row in found["distances"].values()] == [[TEST]] * 4
    assert found["distances"][RECONSTRUCTIONS] != report["distances"][RECONSTRUCTIONS]
    assert set(found["left_out"]) == {"LPIPS", "nearest training latents"}
    assert found["moments_of_samples"] == {}


def test_blocks_add_up_the_same_however_they_come():
    rng = np.random.default_rng(0)
    blocks = [Seen(stream="s", index=i, features=rng.normal(size=(50, 8)).astype(np.float32)) for i in range(6)]
    forth, back = Stream(8), Stream(8)
    for block, other in zip(blocks, blocks[::-1], strict=True):
        forth.add(block)
        back.add(other)
    np.testing.assert_array_equal(forth.features.products, back.features.products)
    whole = np.concatenate([block.features for block in blocks]).astype(np.float64)
    np.testing.assert_allclose(forth.features.statistics()["sigma"], np.cov(whole.T))
    assert distances(forth.features, back.features, METRICS)["frechet"] == pytest.approx(0, abs=1e-6)


def test_features_that_are_not_finite_are_an_error():
    with pytest.raises(LbaeError, match="1 of 2 images have features that are not finite"):
        FeatureSums.empty(3).add(np.array([[0, 1, 2], [0, np.nan, 2]], dtype=np.float32))


@pytest.mark.parametrize(
    ("options", "words", "message"),
    [
        ({}, (), "a classifier's features need labelled training images: give training images with --train-data"),
        ({"train_data": "pipeline"}, ("--priors", "mixtur"), "unknown prior 'mixtur'"),
        ({"train_data": "pipeline"}, ("--metrics", "fid"), "unknown metric 'fid'"),
        ({"latents": "other"}, (), "was fitted from latents"),
    ],
)
def test_mistakes_are_one_line(evaluate, pipeline, tmp_path, options, words, message):
    places = {"pipeline": pipeline.data, "other": str(Path(pipeline.latents).parent / "moments")}
    done = evaluate(tmp_path / "e", *words, **{name: places[place] for name, place in options.items()})
    assert done.code == 2
    assert message in done.error or "a latent table is needed here" in done.error


@pytest.mark.slow
def test_too_few_test_images_get_a_kernel_distance_only(evaluate, pipeline, tmp_path):
    few = tmp_path / "few.parquet"
    pq.write_table(pq.read_table(pipeline.data / "a.parquet").slice(0, 100), few)
    done = evaluate(tmp_path / "e", "--priors", "mixture", data=few, train_data=pipeline.data)
    assert done.code == 2
    assert "needs more than 128: give more, or ask for --metrics kernel,precision,recall" in done.error
    done = evaluate(tmp_path / "e", "--priors", "mixture", "--metrics", "kernel", data=few, train_data=pipeline.data)
    assert done.code == 0, done.err


def test_images_without_labels_cannot_train_a_classifier(evaluate, pipeline, tmp_path):
    table = pq.read_table(pipeline.data / "a.parquet").drop_columns(["label"])
    pq.write_table(table, tmp_path / "a.parquet")
    done = evaluate(tmp_path / "e", train_data=tmp_path / "a.parquet")
    assert done.code == 2
    assert "has no label or attribute column" in done.error


def test_test_images_smaller_than_the_bundles_are_refused(evaluate, pipeline, tmp_path):
    image_table(tmp_path / "a.parquet", [encode_png(np.zeros((16, 20, 1), dtype=np.uint8))])
    done = evaluate(tmp_path / "e", data=tmp_path / "a.parquet", train_data=pipeline.data)
    assert done.code == 2
    assert "20 x 16 pixels, those of the bundle 28 x 28" in done.error
