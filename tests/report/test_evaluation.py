"""Evaluation of the small pipeline: figures against torch-fidelity's, refused inputs, results left out."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch_fidelity
from PIL import Image
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.metric_kid import kid_features_to_metric

import lbae
from lbae.core.latents.editing import edit
from lbae.core.latents.packing import pack, unpack
from lbae.errors import LbaeError
from lbae.io.artifacts.attribute_columns import Attribute
from lbae.io.images import encode_png
from lbae.io.sources.decode import decode_every
from lbae.io.sources.plan import plan
from lbae.io.storage.location import resolve
from lbae.report.evaluation import report_json, streams
from lbae.report.evaluation.cache import Cache
from lbae.report.evaluation.edits import IMAGES, LATENTS, before_edits, measure_edits
from lbae.report.evaluation.findings import Findings
from lbae.report.evaluation.inputs import EvaluationInputs
from lbae.report.evaluation.interpolations import measure_paths
from lbae.report.evaluation.report_json import evaluation_report
from lbae.report.evaluation.settings import EvaluationSettings
from lbae.report.evaluation.streams import BAD, MIDPOINTS, RECONSTRUCTIONS, TEST, TRAIN, FeatureBlock, Stream
from lbae.report.features.classifier import Classifier
from lbae.report.features.distances import frechet, kernel
from lbae.report.features.feature_sums import KEPT, FeatureSums, drawn_rows
from lbae.report.features.pixels import pixel_sums
from lbae.report.pages.evaluation_page import files
from tests.conftest import QUICK_DEATH, ROOT, SAMPLE, Outcome, Pipeline, image_table

FAST = ("--priors", "mixture", "--priors", "coins", "--metrics", "frechet")


def read_report(out: Path) -> dict:
    return json.loads((out / "report.json").read_text())


def decoded_cells(cells: list[bytes]) -> list[np.ndarray]:
    return [np.array(Image.open(io.BytesIO(cell)))[..., None] for cell in cells]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def evaluate(job, pipeline: Pipeline, cache: Path):
    """Run the job on the small pipeline; ``options`` replace or add options."""

    def call(out: Path, *more: object, **options: object) -> Outcome:
        given = {"bundle": pipeline.bundle, "data": pipeline.data, "cache": cache, "out": out} | options
        words = [
            word for name, value in given.items() if value for word in (f"--{name.replace('_', '-')}", value)
        ]
        return job("evaluate", *words, *more)

    return call


@pytest.fixture(scope="module")
def whole(evaluate, pipeline, tmp_path_factory) -> Path:
    """An evaluation with every input."""
    out = tmp_path_factory.mktemp("whole") / "evaluation"
    made = {"train_data": pipeline.data, "latents": pipeline.latents, "moments": pipeline.moments}
    done = evaluate(out, "--temperatures", 0.5, **made)
    assert done.code == 0, done.err
    assert "warning: 600 test images are byte-identical to training images" in done.err
    return out


@pytest.fixture(scope="module")
def report(whole) -> dict:
    return read_report(whole)


@pytest.fixture(scope="module")
def images(pipeline) -> np.ndarray:
    config = lbae.load_bundle(pipeline.bundle).codec.config
    return np.concatenate([part.images for part in decode_every(plan(str(pipeline.data)), config)])


def kept_classifier(cache: Path, fingerprint: str) -> Classifier:
    entries = [json.loads(place.read_text()) for place in (cache / "classifiers").glob("*.json")]
    found = [Cache(resolve(str(cache))).classifier(entry["made_of"]) for entry in entries]
    return next(classifier for classifier, its in found if its == fingerprint)


def by_torch_fidelity(
    classifier: Classifier,
    one: np.ndarray,
    other: np.ndarray,
    folder: Path,
    form: str = "png",
    subset: int = 600,
) -> dict[str, float]:
    """torch-fidelity's metrics of image files, with the classifier registered as its feature extractor."""

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
    return of_files(one, other, folder, "features", form=form, feature_extractor=name, kid_subset_size=subset)


def of_files(
    one: np.ndarray, other: np.ndarray, folder: Path, layer: str, form: str = "png", **options: object
) -> dict[str, float]:
    """torch-fidelity's metrics of image files, by one layer of a feature extractor."""
    for place, pictures in ((folder / "one", one), (folder / "other", other)):
        place.mkdir(parents=True)
        for index, image in enumerate(pictures):
            Image.fromarray(image[..., 0]).save(place / f"{index:05d}.{form}")
    return torch_fidelity.calculate_metrics(
        input1=str(folder / "one"),
        input2=str(folder / "other"),
        fid=True,
        kid=True,
        prc=True,
        cuda=False,
        save_cpu_ram=True,
        verbose=False,
        **dict.fromkeys(("feature_layer_fid", "feature_layer_kid", "feature_layer_prc"), layer),
        **options,
    )


def assert_same(found: dict[str, float], theirs: dict[str, float]) -> None:
    assert found["frechet"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)
    assert found["kernel"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3, abs=1e-5)
    assert [found["precision"], found["recall"]] == pytest.approx(
        [theirs["precision"], theirs["recall"]], rel=1e-3
    )


@pytest.mark.parametrize("made", [RECONSTRUCTIONS, "mixture"])
def test_metrics_match_torch_fidelity_on_the_same_png_files(pipeline, report, images, cache, tmp_path, made):
    bundle = lbae.load_bundle(pipeline.bundle)
    classifier = kept_classifier(cache, report["fingerprints"]["classifier"])
    others = bundle.reconstruct(images) if made == RECONSTRUCTIONS else bundle.sample(600, seed=0)
    assert_same(report["distances"][made][TEST], by_torch_fidelity(classifier, others, images, tmp_path))


def test_a_report_holds_every_figure_and_what_it_depends_on(report, whole):
    priors = [
        "mixture",
        "hyperplane",
        "gaussian",
        "paper",
        "direct",
        "independent",
        "coins",
        "mixture at 0.5",
    ]
    assert report["temperatures"] == [0.5]
    assert list(report["distances"]) == [TRAIN, RECONSTRUCTIONS, MIDPOINTS, *priors]
    for name, row in report["distances"].items():
        assert set(row[TEST]) == {"frechet", "kernel", "precision", "recall"}
        assert list(row.get(TRAIN, {})) == ([] if name == TRAIN else ["frechet"])
    assert report["distances"][TRAIN][TEST]["frechet"] == pytest.approx(0, abs=1e-3)
    assert report["distances"]["coins"][TEST]["frechet"] > report["distances"]["mixture"][TEST]["frechet"]
    assert report["images"] == dict.fromkeys([TEST, TRAIN, RECONSTRUCTIONS, MIDPOINTS, *priors], 600)
    assert report["undecodable"] == {TEST: 0, TRAIN: 0}
    assert report["rows_used"]["rates"] == 256
    assert report["rows_used"]["training images against test images"] == 600
    assert set(report["hardware"]) == {"device", "classifier_precision", "bundle_precision"}
    assert report["classifier_accuracy"]["label"] > 0.5
    assert set(report["fingerprints"]) == {"bundle", "data", "train_data", "latents", "moments", "classifier"}
    assert report["overlap"] == {"bytes": 600, "keys": 600}
    assert report["left_out"].keys() == {"LPIPS"}
    assert report["nearest"][TEST]["copies"] == 600  # the training images themselves
    assert report["moments_of_samples"]["test latents"]["pairs_max"] == 0
    assert report["interpolation"]["ours"]["wrong_bits_an_end"] == 0
    assert report["interpolation"]["ours"]["flips_of_hamming"] == 1
    assert report["interpolation"]["paper"]["wrong_bits_an_end"] > 0
    assert {edit["attribute"] for edit in report["edits"]} <= {f"label={i}" for i in range(10)}
    assert {place.name for place in whole.glob("edit-*")} == {f"edit-{number}.png" for number in range(1, 6)}
    page = (whole / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(list(whole.glob("*.png")))
    assert "src=http" not in page.replace('"', "")
    assert all(
        f"<th>{name}</th>" in page for name in ("training", "precision", "recall", "nearest", "copies")
    )
    assert f"<tr><th>{TEST}</th>" in page, "what samples' nearest training latents are judged against"


def test_reconstruction_errors_are_those_of_the_pixels(pipeline, report, images):
    rebuilt = lbae.load_bundle(pipeline.bundle).reconstruct(images)
    mse = np.square(images / 255 - rebuilt / 255).mean()
    assert report["reconstructions"]["mse"] == pytest.approx(mse, abs=1e-6)
    assert report["reconstructions"]["psnr_db"] == pytest.approx(-10 * np.log10(mse), abs=0.01)
    assert 0 < report["reconstructions"]["ssim"] < 1


def test_figures_of_an_edit_match_its_images(pipeline, report, images, cache):
    bundle = lbae.load_bundle(pipeline.bundle)
    classifier = kept_classifier(cache, report["fingerprints"]["classifier"])
    names = [attribute.name for attribute in classifier.attributes]
    found = report["edits"][0]
    latents = bundle.encode(images)[drawn_rows(len(images), LATENTS)]
    before = bundle.decode(latents)
    had, index = classifier.decide(classifier.features(before)), names.index(found["attribute"])
    chosen = np.roll(np.flatnonzero(had[:, index] != found["value"]), -IMAGES * index)[:IMAGES]
    assert found["images"] == pytest.approx(
        len(chosen), abs=2
    )  # bits whose pre-activation is zero to rounding may differ here
    edited = []
    for row in chosen:
        others = [
            name
            for name, has in zip(names, had[row], strict=True)
            if has and name in bundle.attributes.lifted
        ]
        asked = ([found["attribute"]], others) if found["value"] else ([], [found["attribute"]])
        edited.append(
            edit(bundle.attributes, bundle.values, latents[row : row + 1], *asked, method="bits")[0]
        )
    after = bundle.decode(np.stack(edited))
    success = (classifier.decide(classifier.features(after))[:, index] == found["value"]).mean()
    pixels = np.sqrt(np.square(after / 255 - before[chosen] / 255).mean(axis=(1, 2, 3))).mean()
    assert found["bits"]["success"] == pytest.approx(success, abs=0.03)
    assert found["bits"]["bits"] == pytest.approx(
        (np.stack(edited) != latents[chosen]).sum(axis=1).mean(), rel=0.03
    )
    assert found["bits"]["pixels"] == pytest.approx(pixels, rel=0.03)
    assert found["bits"]["others"] is found["bits"]["beyond"] is None, "there is one column"


def test_an_edit_is_measured_at_every_strength_against_its_ceiling(pipeline, report, images, cache):
    found = report["edits"][0]
    assert [facts["strength"] for facts in found["by_strength"]["exchange"]] == [0.5, 1, 1.5, 2]
    at_one = found["by_strength"]["bits"][1]
    assert at_one == {"strength": 1, **found["bits"]}
    bits = [facts["bits"] for facts in found["by_strength"]["exchange"]]
    assert bits == sorted(bits)
    bundle = lbae.load_bundle(pipeline.bundle)
    classifier = kept_classifier(cache, report["fingerprints"]["classifier"])
    index = [attribute.name for attribute in classifier.attributes].index(found["attribute"])
    labels = pq.read_table(pipeline.data)["label"].to_numpy()
    has = classifier.decide(classifier.features(bundle.reconstruct(images)))[:, index]
    members = labels == classifier.attributes[index].yes
    assert found["ceiling"] == pytest.approx(has[members].mean(), abs=0.03)


def test_variations_are_measured_over_their_strength(report, whole):
    facts = {found["strength"]: found for found in report["variations"]}
    assert facts[0]["bits"] == 0
    assert facts[0]["label kept"] == 1
    assert facts[1]["bits"] > facts[0.1]["bits"] > 0
    assert report["rows_used"]["variations"] == 128
    assert "<h2>Variations</h2>" in (whole / "report.html").read_text()
    assert (whole / "variations.png").stat().st_size > 1000


def test_edited_latents_are_compared_with_all_latents_for_the_nearest(small):
    bundle, latents = small[0].bundle, unpack(small[2].streams[RECONSTRUCTIONS].latents, 11)
    classifier = Classifier(1, (Attribute(name="label", column="label", yes=1, no=0),), {}).eval()
    before = before_edits(bundle, classifier, latents, np.zeros((len(latents), 1), dtype=bool))
    before.had[:] = False
    found = measure_edits(bundle, classifier, before, "label", True)
    for facts in found.by_strength["bits"]:
        edited = edit(bundle.attributes, None, latents[:IMAGES], ["label"], (), facts["strength"], "bits")
        flips = (edited[:, None] != latents[None]).sum(axis=2)
        own = flips[np.arange(len(edited)), np.arange(len(edited))] == flips.min(axis=1)
        assert facts["own"] == pytest.approx(own.mean(), abs=1e-4)


def test_images_edited_to_classes_are_measured_against_test_images(report):
    (facts,) = report["edit_distances"].values()
    assert set(facts) == {"reconstructions", "exchange", "bits", "paper"}
    assert min(facts.values()) >= 0


GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_other_columns_weigh_alike_however_many_classes_they_have(small, device):
    bundle, columns = small[0].bundle.to(device), {"coarse": 20, "fine": 100}
    attributes = [Attribute(name="label", column="label", yes=1, no=0)]
    attributes += [
        Attribute(name=f"{c}={i}", column=c, yes=i) for c, count in columns.items() for i in range(count)
    ]
    classifier = Classifier(1, tuple(attributes), {}).to(device).eval()
    with torch.no_grad():
        classifier.head.bias[[1, 21]] = 100  # finds the first class of both columns in every image
    latents = unpack(small[2].streams[RECONSTRUCTIONS].latents, 11)
    had = np.zeros((len(latents), 121), dtype=bool)
    had[:, [1, 22]] = True  # before: the second class of one of them
    originals = had.copy()
    originals[:30, 1:3], originals[30:, 21:23] = [False, True], [True, False]
    before = replace(before_edits(bundle, classifier, latents, originals), had=had)
    found = measure_edits(bundle, classifier, before, "label", True)
    assert found.images == 40
    for facts in found.facts.values():
        assert facts["others"] == 0.5
        # The edit is one column further from 30 of the originals, and one nearer to the other 10.
        assert facts["beyond"] == 0.5 * 30 / 40 - 0.5 * 10 / 40


@pytest.mark.slow
def test_a_repeated_evaluation_gives_the_same_from_the_cache(evaluate, pipeline, whole, report, tmp_path):
    inputs = {"train_data": pipeline.data, "latents": pipeline.latents, "moments": pipeline.moments}
    same = evaluate(whole, "--temperatures", 0.5, **inputs)
    assert json.loads(same.out.splitlines()[-1])["already"]
    done = evaluate(tmp_path / "again", *FAST, **inputs)
    assert done.code == 0, done.err
    again = read_report(tmp_path / "again")
    for name, row in again["distances"].items():
        assert {key: to["frechet"] for key, to in row.items()} == {
            key: to["frechet"] for key, to in report["distances"][name].items()
        }


@pytest.mark.slow
def test_figures_do_not_depend_on_nodes_a_dying_node_or_the_parts_of_the_source(
    pipeline, report, cache, tmp_path
):
    table = pq.read_table(pipeline.data)
    (tmp_path / "data").mkdir()
    for part in range(4):
        pq.write_table(table.slice(150 * part, 150), tmp_path / "data" / f"{part}.parquet")
    options = {
        "bundle": pipeline.bundle,
        "data": str(tmp_path / "data"),
        "out": str(tmp_path / "e"),
        "cache": str(cache),
        "temperatures": [0.5],
    }
    options |= {"train_data": str(pipeline.data), "latents": pipeline.latents, "moments": pipeline.moments}
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | QUICK_DEATH
    command = [sys.executable, "-m", "tests.distributed.evaluate_on_two_nodes", json.dumps(options)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    assert '{"killed": true}' in done.stdout
    found = read_report(tmp_path / "e")
    assert found["distances"].keys() == report["distances"].keys()
    for name, row in found["distances"].items():
        for reference, values in row.items():
            assert values == pytest.approx(report["distances"][name][reference], rel=1e-5, abs=1e-5)
    assert found["overlap"]["bytes"] == report["overlap"]["bytes"]
    assert found["reconstructions"] == pytest.approx(report["reconstructions"], rel=1e-6)
    for name in ("nearest", "interpolation", "edits", "moments_of_samples"):
        assert found[name] == report[name]


@pytest.mark.slow
def test_a_classifier_is_trained_when_the_largest_node_has_no_gpu(digits, tmp_path):
    pq.write_table(pq.read_table(digits / "a.parquet").slice(0, 60), tmp_path / "few.parquet")
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "tests.distributed.classify_on_two_nodes", str(tmp_path / "few.parquet")]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    facts = {"cpus": [3, 2, 2], "columns": ["label"], "workers_memory_is_of_one_node": True}
    assert json.loads(done.stdout.splitlines()[-1]) == facts


@pytest.mark.slow
def test_the_papers_protocol_matches_torch_fidelity_on_jpeg_files(
    evaluate, pipeline, cache, tmp_path, monkeypatch
):
    kept, test = 2_000, tmp_path / "test.parquet"
    pq.write_table(pq.read_table(SAMPLE).slice(0, kept), test)
    for module in (streams, report_json):
        monkeypatch.setattr(module, "KEPT", kept)
    done = evaluate(
        tmp_path / "e",
        "--priors",
        "mixture",
        "--priors",
        "coins",
        "--protocol",
        "paper",
        data=test,
        train_data=pipeline.data,
    )
    assert done.code == 0, done.err
    found = read_report(tmp_path / "e")
    assert [list(row) for row in found["distances"].values()] == [[TEST]] * 4
    absent = {
        "LPIPS",
        "nearest training latents",
        "training images beside samples",
        "distances to training images",
    }
    assert set(found["left_out"]) == absent | {"moments of samples, slide 16's figures"}
    assert found["moments_of_samples"] == {}
    assert found["rows_used"]["kernel, precision, recall"] == found["images"][TEST] == kept
    bundle = lbae.load_bundle(pipeline.bundle)
    images = np.concatenate([part.images for part in decode_every(plan(str(test)), bundle.codec.config)])
    classifier = kept_classifier(cache, found["fingerprints"]["classifier"])
    theirs = by_torch_fidelity(
        classifier, bundle.sample(kept, seed=0), images, tmp_path, form="jpg", subset=1_000
    )
    assert_same(found["distances"]["mixture"][TEST], theirs)


@pytest.mark.slow
def test_metrics_in_inceptions_features_match_torch_fidelity_on_the_same_png_files(
    evaluate, pipeline, inception, tmp_path
):
    """With an untrained Inception, because this test downloads no weights."""
    few = tmp_path / "few.parquet"
    pq.write_table(pq.read_table(pipeline.data / "a.parquet").slice(0, 12), few)
    options = ("--features", "inception", "--priors", "mixture", "--metrics", "kernel", "--metrics")
    done = evaluate(tmp_path / "e", *options, "frechet", data=few)
    assert done.code == 2
    assert f"test images of {few}: 12; a Fréchet distance in 2048 features needs more than 2048" in done.error
    done = evaluate(tmp_path / "e", *options, "precision", "--metrics", "recall", data=few)
    assert done.code == 0, done.err
    found = read_report(tmp_path / "e")
    assert found["fingerprints"].keys() == {"bundle", "data", "inception"}
    bundle = lbae.load_bundle(pipeline.bundle)
    images = np.concatenate([part.images for part in decode_every(plan(str(few)), bundle.codec.config)])
    how = {
        "feature_extractor": "inception-v3-compat",
        "feature_extractor_weights_path": str(inception),
        "kid_subset_size": 12,
    }
    theirs = of_files(bundle.sample(12, seed=0), images, tmp_path, "2048", **how)
    row = found["distances"]["mixture"][TEST]
    assert row["kernel"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
    assert [row["precision"], row["recall"]] == pytest.approx(
        [theirs["precision"], theirs["recall"]], rel=1e-3
    )


@pytest.mark.slow
def test_nearest_images_are_left_out_when_the_table_has_rows_of_another_source(
    job, evaluate, pipeline, tmp_path
):
    first, last = tmp_path / "a.parquet", tmp_path / "b.parquet"
    for place in (first, last):
        pq.write_table(pq.read_table(pipeline.data / place.name).slice(0, 60), place)
    made = {name: tmp_path / name for name in ("bundle", "latents", "moments")}
    table, sums = ("--latents", made["latents"]), ("--moments", made["moments"])
    for words in (
        ("encode", "--model", pipeline.model, "--data", first, "--out", made["latents"]),
        ("encode", "--model", pipeline.model, "--data", last, "--out", made["latents"], "--append"),
        ("reduce", *table, "--out", made["moments"]),
        ("fit", "--model", pipeline.model, *table, *sums, "--components", "1", "--out", made["bundle"]),
    ):
        done = job(*words)
        assert done.code == 0, done.err
    done = evaluate(
        tmp_path / "e", "--priors", "mixture", "--metrics", "kernel", **made, data=last, train_data=last
    )
    assert done.code == 0, done.err
    found = read_report(tmp_path / "e")
    assert found["nearest"]["mixture"]["percentiles_1_50"]
    assert f"{last} no longer holds image a.parquet:" in found["left_out"]["training images beside samples"]
    assert not (tmp_path / "e" / "nearest.png").exists()


@pytest.mark.slow
def test_odd_test_images_are_counted_and_named(evaluate, pipeline, tmp_path):
    """Test images: a shard without any image, missing and broken files, labels of another type, and three
    copies of training images.

    Training images: a column that mixes -1 and classes.
    """
    (tmp_path / "train").mkdir()
    for name in ("a.parquet", "b.parquet"):
        table = pq.read_table(pipeline.data / name)
        pq.write_table(
            table.append_column("cluster", pa.array(np.arange(len(table)) % 4 - 1)), tmp_path / "train" / name
        )
    cells = [cell["bytes"] for cell in pq.read_table(pipeline.data / "b.parquet")["image"].to_pylist()]
    mirrored = [encode_png(image[:, ::-1]) for image in decoded_cells(cells[:200])]
    image_table(tmp_path / "test" / "a.parquet", [None, b"", b"no image"], label=["3"] * 3)
    image_table(
        tmp_path / "test" / "b.parquet", [None, *mirrored, cells[7], cells[7], cells[8]], label=["3"] * 204
    )
    inputs = {"data": tmp_path / "test", "train_data": tmp_path / "train"}
    done = evaluate(tmp_path / "e", *FAST, "--max-bad-fraction", 0.1, **inputs)
    assert done.code == 0, done.err
    assert "warning: 3 test images are byte-identical to training images" in done.err
    found = read_report(tmp_path / "e")
    assert found["undecodable"] == {TEST: 4, TRAIN: 0}
    assert found["images"][TEST] == found["images"][MIDPOINTS] == 203
    assert found["overlap"] == {"bytes": 3, "keys": 207}
    assert found["classifier_accuracy"] == {}
    assert "no such column" in found["left_out"]["classifier accuracy, label"]
    assert "has -1 among its classes" in found["left_out"]["classifier accuracy, cluster"]
    page = (tmp_path / "e" / "report.html").read_text()
    assert "accuracy unknown: no usable test labels" in page
    assert "<th>training</th>" in page
    assert not any(f"<th>{name}</th>" in page for name in ("precision", "recall", "nearest", "copies"))


@pytest.fixture
def small() -> tuple[EvaluationInputs, EvaluationSettings, Findings]:
    """A small evaluation of the golden bundle on 40 test images of one grey each, from dark to light."""
    bundle = lbae.load_bundle(str(ROOT / "tests" / "golden" / "v1" / "bundle"))
    images = np.full((40, 16, 16, 1), 6 * np.arange(40)[:, None, None, None], dtype=np.uint8)
    latents = bundle.encode(images)
    rebuilt = bundle.decode(latents)
    stream = Stream(3, 40)
    block = {
        "features": np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32),
        "latents": pack(latents),
    }
    errors = pixel_sums(images, rebuilt, None) | {BAD: 0.0}
    shown = np.stack([images, rebuilt], axis=1)
    stream.add(
        FeatureBlock(stream=RECONSTRUCTIONS, index=0, places=np.arange(40), sums=errors, shown=shown, **block)
    )
    found = Findings(
        streams={RECONSTRUCTIONS: stream},
        references={},
        distances={RECONSTRUCTIONS: {TEST: {"frechet": 1.5}}},
        accuracy={},
        rates={"jpeg": [(0.5, 20.0), (1.0, 30.0)]},
        nearest={name: {"percentiles_1_50": [3.0, 7.0], "copies": 5} for name in (TEST, "mixture")},
        paths=measure_paths(bundle.codec, bundle.normals, latents[:4], 0),
    )
    inputs = EvaluationInputs(
        bundle=bundle, test=plan(str(SAMPLE)), train=None, latents=None, moments=None, parents={}
    )
    settings = EvaluationSettings(
        priors=("mixture",), features="classifier", metrics=("frechet",), protocol="ours", seed=0
    )
    return inputs, settings, found


def test_equal_latents_have_no_path_to_measure(pipeline):
    bundle = lbae.load_bundle(pipeline.bundle)
    latents = bundle.prior.sample(4, 0)
    same = np.concatenate([latents[:1], latents[:1], latents])
    paths, among_others = (measure_paths(bundle.codec, bundle.normals, some, 0) for some in (latents, same))
    assert among_others["ours"].facts["flips_of_hamming"] == paths["ours"].facts["flips_of_hamming"] == 1
    assert measure_paths(bundle.codec, bundle.normals, same[:2], 0)["ours"].facts["wrong_bits_an_end"] == 0


def files_of(evaluation: tuple[EvaluationInputs, EvaluationSettings, Findings]) -> dict[str, bytes]:
    inputs, _, found = evaluation
    return files(inputs, evaluation_report(*evaluation), found)


def test_the_page_shows_the_nearest_training_latents_of_test_images(small):
    row = f"<tr><th>{TEST}</th><td></td><td>3, 7</td><td>5</td></tr>"
    assert row in files_of(small)["report.html"].decode()
    small[2].nearest.clear()
    assert f"<th>{TEST}</th>" not in files_of(small)["report.html"].decode(), "nothing is known of them"


def test_shown_reconstructions_are_spread_over_a_sorted_source(small):
    picture = np.array(Image.open(io.BytesIO(files_of(small)["reconstructions.png"])))
    greys = set(picture[: len(picture) // 2].flat)
    assert {0, 6 * 39} <= greys, "the first and the last"
    assert len(greys & set(range(0, 6 * 40, 6))) == 16


def test_blocks_add_up_the_same_in_any_order_of_arrival():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 8)).astype(np.float32)
    blocks = [
        FeatureBlock(
            stream="s",
            index=i,
            places=np.arange(50 * i, 50 * i + 50),
            features=features[50 * i : 50 * i + 50],
        )
        for i in range(6)
    ]
    forth, back = Stream(8, 300), Stream(8, 300)
    for block, other in zip(blocks, blocks[::-1], strict=True):
        forth.add(block)
        back.add(other)
    np.testing.assert_array_equal(forth.features.products, back.features.products)
    np.testing.assert_allclose(forth.features.statistics()["sigma"], np.cov(features.astype(np.float64).T))
    assert frechet(forth.features, back.features)["frechet"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("rows", "deviates"), [((300, 300), False), ((300, 400), True)])
def test_a_kernel_distance_has_a_deviation_unless_every_subset_is_the_whole_set(rows, deviates):
    rng = np.random.default_rng(0)
    one, other = (torch.from_numpy(rng.normal(size=(count, 8)).astype(np.float32)) for count in rows)
    theirs = kid_features_to_metric(one, other, kid_subsets=100, kid_subset_size=300, verbose=False)
    sums = FeatureSums.empty(8), FeatureSums.empty(8)
    for filled, features in zip(sums, (other, one), strict=True):
        filled.add(features.numpy(), np.ones(len(features), dtype=bool))
    found = kernel(*sums)
    assert found.pop("kernel") == pytest.approx(theirs["kernel_inception_distance_mean"], abs=1e-6)
    expected = {"kernel_deviation": theirs["kernel_inception_distance_std"]} if deviates else {}
    assert found == pytest.approx(expected, rel=1e-4)


def test_kept_features_are_spread_over_the_source_however_it_is_cut():
    rows = 3 * KEPT
    features = np.arange(rows, dtype=np.float32)[:, None]
    kept = []
    for cut in (2_000, 2_048, rows):
        stream = Stream(1, rows)
        for index, start in enumerate(range(0, rows, cut)):
            some = features[start : start + cut]
            stream.add(
                FeatureBlock(stream="s", index=index, places=start + np.arange(len(some)), features=some)
            )
        kept.append(stream.features.features().numpy()[:, 0])
    assert len(kept[0]) == KEPT
    np.testing.assert_array_equal(kept[0], kept[1])
    np.testing.assert_array_equal(kept[0], kept[2])
    assert np.histogram(kept[0], bins=10, range=(0, rows))[0] == pytest.approx([KEPT / 10] * 10, rel=0.1)
    assert np.bincount(kept[0].astype(int) % 3) == pytest.approx([KEPT / 3] * 3, rel=0.1)


def test_as_many_training_images_are_drawn_as_there_are_test_images():
    """The distance of equal Gaussians falls with the number of images on either side, so a floor that was
    measured with more images could not be reached.
    """
    rng, dim, tested = np.random.default_rng(0), 32, 300
    features = rng.normal(size=(6_000, dim)).astype(np.float32)
    training, some = FeatureSums.empty(dim), FeatureSums.empty(dim)
    for start in range(0, 6_000, 1_000):
        training.add(features[start : start + 1_000], np.arange(1_000) % 2 == 0)
    some.add(rng.normal(size=(tested, dim)).astype(np.float32), np.ones(tested, dtype=bool))
    drawn = training.drawn(tested)
    assert drawn.count == len(drawn.features()) == tested
    np.testing.assert_array_equal(drawn.features(), features[::2][drawn_rows(3_000, tested)])
    np.testing.assert_allclose(
        drawn.statistics()["sigma"], np.cov(drawn.features().numpy().T.astype(np.float64))
    )
    as_many, all_of_them = (frechet(some, images)["frechet"] for images in (drawn, training))
    assert as_many > 1.5 * all_of_them
    assert training.drawn(5_000).count == 3_000, "all that are kept"


def test_features_that_are_not_finite_are_an_error():
    with pytest.raises(LbaeError, match="1 of 2 images have features that are not finite"):
        FeatureSums.empty(3).add(
            np.array([[0, 1, 2], [0, np.nan, 2]], dtype=np.float32), np.array([True, True])
        )


@pytest.mark.parametrize(
    ("options", "words", "message"),
    [
        (
            {},
            (),
            "--features classifier cannot be used: needs --train-data with labels or attributes;"
            " --features inception needs no labels",
        ),
        (
            {"train_data": "data"},
            ("--priors", "mixtur"),
            "--priors is 'mixtur'; allowed: mixture, hyp",
        ),
        ({"train_data": "data"}, ("--metrics", "fid"), "--metrics is 'fid'; allowed: frechet, kernel"),
        ({"latents": "others"}, (), "was fitted from latents"),
        ({"moments": "sums"}, (), "was fitted from moments"),
        ({"latents": "latents", "train_data": "copy"}, (), "were encoded from images"),
        ({"bundle": "model", "latents": "latents"}, (), "is of kind model; allowed here: bundle"),
        ({"latents": "moments"}, (), "is of kind moment sums; allowed here: latent table"),
    ],
)
def test_user_errors_are_one_line(evaluate, pipeline, others, tmp_path, options, words, message):
    done = evaluate(tmp_path / "e", *words, **{name: others[place] for name, place in options.items()})
    assert done.code == 2
    assert message in done.error


@pytest.fixture(scope="module")
def others(pipeline, tmp_path_factory) -> dict[str, object]:
    """The pipeline's artifacts, latents and sums of other rows, and a copy of its images."""
    copy = tmp_path_factory.mktemp("others") / "copy.parquet"
    pq.write_table(pq.read_table(pipeline.data), copy)
    golden = ROOT / "tests" / "golden" / "v1"
    made = {"others": golden / "latents", "sums": golden / "moments", "copy": copy}
    return made | {name: getattr(pipeline, name) for name in ("data", "model", "latents", "moments")}


@pytest.mark.slow
def test_too_few_images_for_a_frechet_distance_are_refused_but_not_for_others(evaluate, pipeline, tmp_path):
    few = tmp_path / "few.parquet"
    pq.write_table(pq.read_table(pipeline.data / "a.parquet").slice(0, 8), few)
    for data, train in ((few, pipeline.data), (pipeline.data, few)):
        done = evaluate(tmp_path / "e", "--priors", "mixture", data=data, train_data=train)
        assert done.code == 2
        what = "test images" if data == few else "training images"
        assert f"{what} of {few}: 8; a Fréchet distance in 128 features needs more than 128" in done.error
        assert "give more, or ask for --metrics kernel --metrics precision --metrics recall" in done.error
    rest = {"train_data": pipeline.data, "latents": pipeline.latents}
    done = evaluate(tmp_path / "e", "--priors", "mixture", "--metrics", "kernel", data=few, **rest)
    assert done.code == 0, done.err
    assert (tmp_path / "e" / "nearest.png").exists()


def test_images_without_labels_cannot_train_a_classifier(evaluate, pipeline, tmp_path):
    table = pq.read_table(pipeline.data / "a.parquet").drop_columns(["label"])
    pq.write_table(table, tmp_path / "a.parquet")
    done = evaluate(tmp_path / "e", train_data=tmp_path / "a.parquet")
    assert done.code == 2
    assert "has no label or attribute column" in done.error


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (
            [b"no image", None, encode_png(np.zeros((16, 20, 1), dtype=np.uint8))],
            "20 x 16 pixels, those of the bundle 28 x 28",
        ),
        ([b"no image", None], "can be read: give readable images"),
    ],
)
def test_test_images_smaller_than_the_bundles_are_refused(evaluate, pipeline, tmp_path, cells, message):
    image_table(tmp_path / "a.parquet", cells)
    done = evaluate(tmp_path / "e", data=tmp_path / "a.parquet", train_data=pipeline.data)
    assert done.code == 2
    assert message in done.error
