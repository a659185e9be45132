"""Evaluation of the small pipeline: what its numbers must be, not how good it is."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy import linalg

import lbae
from lbae.errors import UserError
from lbae.io.moments import load_moments
from lbae.io.source import plan
from lbae.report.classifier import load_or_train, look, train_classifier
from lbae.report.evaluation import BASELINES, Labelled, labelled, score


@pytest.fixture(scope="module")
def bundle(pipeline):
    return lbae.load_bundle(pipeline.bundle)


@pytest.fixture(scope="module")
def images(pipeline, bundle) -> Labelled:
    return labelled(plan(str(pipeline.data)), bundle.codec.config)


@pytest.fixture(scope="module")
def classifier(images):
    return train_classifier(images.images, images.labels, epochs=15, flip=False, seed=0)


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """The distance by its formula."""
    (mean_a, cov_a), (mean_b, cov_b) = ((x.mean(axis=0), np.cov(x.T)) for x in (a.astype(float), b.astype(float)))
    return ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * np.real(linalg.sqrtm(cov_a @ cov_b)))


def test_distances_follow_the_formula_and_copies_are_counted(pipeline, bundle, images, classifier):
    known = bundle.prior.sample(300, seed=5)
    report = score(bundle, classifier, images, images, load_moments(pipeline.moments)[0], known, seed=5)
    assert set(report["table"]) == {"training images", "reconstructions", "bundle", *BASELINES}
    real, rebuilt = (look(classifier, x).features.numpy() for x in (images.images, bundle.reconstruct(images.images)))
    assert report["table"]["reconstructions"]["distance"] == pytest.approx(frechet(real, rebuilt), rel=1e-3, abs=0.02)
    assert report["table"]["training images"]["distance"] == pytest.approx(0, abs=0.02)
    assert report["table"]["bundle"]["copies"] >= 300
    assert 0 < report["accuracy"] <= 1


def test_features_do_not_depend_on_the_other_images(images, classifier):
    together = look(classifier, images.images[:300]).features
    torch.testing.assert_close(together[:40], look(classifier, images.images[:40]).features, rtol=0.02, atol=0.02)


def test_a_classifier_is_trained_once(tmp_path, images):
    uri = str(tmp_path / "classifier")
    trained, fingerprint = load_or_train(uri, images.images[:100], images.labels[:100], "data")
    again, same = load_or_train(uri, images.images[:0], [], "data")
    assert same == fingerprint
    torch.testing.assert_close(look(again, images.images[:9]).features, look(trained, images.images[:9]).features)
    with pytest.raises(UserError, match="already holds a classifier"):
        load_or_train(uri, images.images[:100], images.labels[:100], "other data")


def test_too_few_images_are_refused(pipeline, bundle, images, classifier):
    few = Labelled(images=images.images[:128], labels=images.labels[:128])
    with pytest.raises(UserError, match="128 test images"):
        score(bundle, classifier, few, images, load_moments(pipeline.moments)[0], bundle.prior.sample(1, 0), seed=0)


def test_images_without_labels_are_refused(pipeline, bundle, tmp_path):
    table = pq.read_table(pipeline.data / "a.parquet").drop_columns(["label"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match="no column 'label'"):
        labelled(plan(str(tmp_path)), bundle.codec.config)


def test_the_job_writes_a_report(job, pipeline, tmp_path):
    images, out = ["--data", pipeline.data, "--train-data", pipeline.data], tmp_path / "evaluation"
    made = ["--bundle", pipeline.bundle, "--latents", pipeline.latents, "--moments", pipeline.moments]
    done = job("evaluate", *made, *images, "--classifier", tmp_path / "classifier", "--out", out)
    assert done.code == 0, done.err
    report = json.loads((out / "report.json").read_text())
    assert json.loads(done.out.splitlines()[-1])["table"] == report["table"]
    assert report["images"] == 600
