"""The networks whose features are compared, and their cache."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from lbae.config import ModelConfig
from lbae.errors import LbaeError
from lbae.io.images import encode_png
from lbae.io.sources.plan import plan
from lbae.io.storage.location import resolve
from lbae.report.evaluation.cache import Cache, Reference
from lbae.report.features.classifier import Classifier, from_weights, to_weights
from lbae.report.features.classifier_training import train_classifier
from lbae.report.features.feature_sums import FeatureSums
from lbae.report.features.inception import load_inception
from lbae.report.features.labelled_images import LabelledImages, NoUsableLabels, read_labelled_images
from lbae.report.features.pixels import load_lpips
from tests.conftest import image_table

CONFIG = ModelConfig(image_size=32, padding=2, image_channels=1)


def read_all(folder) -> LabelledImages:
    source = plan(str(folder))
    return read_labelled_images(source.uri, source.shards, CONFIG)


@pytest.fixture
def squares(tmp_path):
    """Grey images with a class (the place of a bright square) and an attribute (a light background).

    The attribute of some images is unknown.
    """
    rng = np.random.default_rng(0)
    cells, kinds, lights = [], [], []
    for index in range(300):
        kind, light = rng.integers(3), bool(rng.integers(2))
        pixels = np.full((28, 28, 1), 120 if light else 20) + rng.integers(0, 20, (28, 28, 1))
        pixels[8 * kind : 8 * kind + 8, 4:12] = 250
        cells.append(encode_png(pixels.astype(np.uint8)))
        kinds.append(f"k{kind}")
        lights.append(light if index % 10 else None)
    image_table(tmp_path / "a.parquet", cells, kind=kinds, light=pa.array(lights, pa.bool_()))
    return read_all(tmp_path)


def test_a_classifier_learns_labels_and_attributes_and_is_cached(squares, tmp_path):
    assert [a.name for a in squares.attributes] == ["kind=k0", "kind=k1", "kind=k2", "light"]
    network = train_classifier(squares, epochs=1, least_steps=80, seed=0, device="cpu")
    features = network.features(squares.images)
    has = network.decide(features)
    assert (has[:, :3].sum(axis=1) == 1).all()
    right = network.correct(has, squares.present, squares.absent)
    assert right["kind"][1] == 300
    assert right["light"][1] == 270
    assert right["kind"][0] > 285
    assert right["light"][0] > 256
    torch.testing.assert_close(network.features(squares.images[:3]), features[:3], rtol=0, atol=0)

    cache = Cache(resolve(str(tmp_path / "cache")))
    assert cache.classifier({"data": "d"}) is None
    fingerprint = cache.keep_classifier({"data": "d"}, network)
    again, same = cache.classifier({"data": "d"})
    assert same == fingerprint
    torch.testing.assert_close(again.features(squares.images), features, rtol=0, atol=0)
    assert cache.classifier({"data": "other"}) is None


def test_cached_references_are_keyed_by_their_inputs_and_damage_is_detected(tmp_path):
    cache, made_of = Cache(resolve(str(tmp_path))), {"data": "d", "role": "test images", "rows": 3}
    sums = FeatureSums.empty(2)
    sums.add(np.arange(6, dtype=np.float32).reshape(3, 2), np.array([True, False, True]))
    cache.keep_reference(made_of, Reference(features=sums, sums={"right label": 2.0}))
    again = cache.reference(made_of)
    assert (again.features.count, again.sums) == (3, {"right label": 2.0})
    np.testing.assert_array_equal(again.features.products, sums.products)
    np.testing.assert_array_equal(again.features.features(), sums.features())
    for other in ({"role": "training images"}, {"rows": 2}, {"precision": "float32"}):
        assert cache.reference(made_of | other) is None
    cache.keep_reference(made_of, again)  # as by a second evaluation that began at the same time
    assert cache.reference(made_of).features.count == 3
    (arrays,) = (tmp_path / "features").glob("*.safetensors")
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"!")
    with pytest.raises(
        LbaeError, match=r"cache entry .* is damaged \(.* does not match its name\): delete both"
    ):
        cache.reference(made_of)
    arrays.unlink()
    with pytest.raises(LbaeError, match=r"is damaged \(FileNotFoundError"):
        cache.reference(made_of)


@pytest.mark.parametrize(
    "change",
    [
        {"arrays": "../secret"},
        {"arrays": "/etc/passwd"},
        {"arrays": 3},
        {"facts": {"count": "three", "sums": {}}},
        {"facts": {"sums": {}}},
        {"facts": {"count": 3, "sums": [1]}},
        {"facts": None},
    ],
)
def test_a_hostile_cache_entry_is_refused_and_opens_no_file_elsewhere(tmp_path, change):
    cache, made_of = Cache(resolve(str(tmp_path / "cache"))), {"data": "d"}
    sums = FeatureSums.empty(2)
    sums.add(np.arange(6, dtype=np.float32).reshape(3, 2), np.array([True, False, True]))
    cache.keep_reference(made_of, Reference(features=sums, sums={}))
    (tmp_path / "cache" / "secret").mkdir()
    (entry,) = (tmp_path / "cache" / "features").glob("*.json")
    entry.write_text(json.dumps({**json.loads(entry.read_text()), **change}))
    with pytest.raises(LbaeError, match=r"cache entry .*json is damaged \(.*: delete it"):
        cache.reference(made_of)


@pytest.mark.parametrize(
    "facts", [{"channels": 10**9, "attributes": [], "unusable": {}}, {"channels": 3}, {"attributes": "x"}]
)
def test_a_classifier_that_its_weights_do_not_bear_out_is_refused(squares, tmp_path, facts):
    cache, made_of = Cache(resolve(str(tmp_path))), {"data": "d"}
    cache.keep_classifier(made_of, Classifier(3, squares.attributes, {}))
    (entry,) = (tmp_path / "classifiers").glob("*.json")
    entry.write_text(json.dumps({**json.loads(entry.read_text()), "facts": facts}))
    with pytest.raises(LbaeError, match=r"cache entry .*json is damaged \(.*: delete it"):
        cache.classifier(made_of)


def test_images_without_attributes_are_refused(tmp_path):
    blank = encode_png(np.zeros((28, 28, 1), dtype=np.uint8))
    image_table(tmp_path / "a.parquet", [blank], note=[["words"]])
    with pytest.raises(
        NoUsableLabels, match=rf"{tmp_path} has no label or attribute column \(columns: note\)"
    ):
        read_all(tmp_path)
    image_table(tmp_path / "a.parquet", [blank], score=[0.5])
    with pytest.raises(NoUsableLabels, match=r"only columns that cannot be used \(score: fractions\)"):
        read_all(tmp_path)


def test_unusable_columns_are_named_and_do_not_affect_others(tmp_path):
    blank = encode_png(np.zeros((28, 28, 1), dtype=np.uint8))
    columns = {"name": [f"n{i}" for i in range(201)], "cluster": [i % 4 - 1 for i in range(201)]}
    image_table(tmp_path / "a.parquet", [blank] * 201, **columns)
    mixed = "-1 among its classes, which nearly always means unknown: make it null"
    unusable = rf"only columns that cannot be used \(name: more than 200 values; cluster: {mixed}\)"
    with pytest.raises(NoUsableLabels, match=unusable):
        read_all(tmp_path)
    image_table(tmp_path / "a.parquet", [blank] * 201, **columns, light=[True, False, None] * 67)
    found = read_all(tmp_path)
    assert [a.name for a in found.attributes] == ["light"]
    network = train_classifier(found, epochs=1, least_steps=1, seed=0, device="cpu")
    assert found.unusable == network.unusable == from_weights(*to_weights(network)).unusable
    assert found.unusable == {"name": "more than 200 values", "cluster": mixed}


def test_inception_features_match_torch_fidelity_with_grey_as_three_equal_channels(inception):
    network, _ = load_inception()
    grey = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), dtype=np.uint8)
    found = network.features(grey)
    theirs = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(inception))
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(grey).permute(0, 3, 1, 2).repeat(1, 3, 1, 1))[0]
    torch.testing.assert_close(found, expected)


def test_the_error_for_missing_weights_says_which_file_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(
        LbaeError, match=rf"not at {tmp_path}/hub/.*put that file there, or .*--features classifier"
    ):
        load_inception()


def test_weights_that_would_run_code_are_refused(tmp_path, monkeypatch):
    weights = tmp_path / "hub" / "checkpoints" / URL_INCEPTION_V3.rpartition("/")[2]
    weights.parent.mkdir(parents=True)
    torch.save({"a": print}, weights)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(LbaeError, match="is not a weights file"):
        load_inception()


def test_lpips_needs_its_weights_and_large_colour_images(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    colour = ModelConfig(image_size=32)
    assert load_lpips(colour) is None
    from torchvision.models import AlexNet_Weights, alexnet

    weights = tmp_path / "hub" / "checkpoints" / AlexNet_Weights.DEFAULT.url.rpartition("/")[2]
    weights.parent.mkdir(parents=True)
    torch.save(alexnet().state_dict(), weights)
    assert load_lpips(CONFIG) is None
    lpips = load_lpips(colour)
    images = torch.rand(2, 3, 32, 32)
    assert float(lpips(images, images)) == pytest.approx(0)
    assert float(lpips(images, 1 - images)) > 0
