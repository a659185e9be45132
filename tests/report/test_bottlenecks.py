"""Samples of models with different bottlenecks."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lbae import presets
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.errors import UserError
from lbae.io.artifacts.model_artifact import save_model
from lbae.io.artifacts.output import Output
from lbae.jobs.inspect.losses import losses
from lbae.report.features import sample_distances as bottlenecks
from lbae.report.features.sample_distances import sample_distances
from tests.conftest import SAMPLE, image_table, picture_size, run_job


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    """Untrained networks of the three bottlenecks."""
    made = {}
    for kind in ("bernoulli", "continuous", "gaussian"):
        config = presets.get("demo").replace(bottleneck=kind, channels=(8, 8, 8), latent_dim=64)
        made[kind] = str(tmp_path_factory.mktemp("models") / kind)
        history = [{"number": 1, "train_loss": 2.0, "validation_loss": 3.0}]
        result = {"images": 0, "history": history}
        output = Output(made[kind], "model", parents={}, config=config.to_dict())
        save_model(output, LatentBernoulliAutoencoder(config.model), config, result)
    return made


def test_losses_shows_the_sample_distance_of_every_bottleneck(models, digits, tmp_path, monkeypatch):
    monkeypatch.setitem(bottlenecks.SETTINGS, "least_steps", 6)
    places = ("--data", digits, "--train-data", digits)
    given = [word for model in models.values() for word in ("--models", model)]
    done = run_job("losses", *given, "--out", tmp_path / "l.png", *places)
    assert done.code == 0, done.err
    apart = json.loads(done.out)["sample_distances"]
    assert list(apart) == [f"{kind}, N = 64" for kind in models]
    assert all(np.isfinite(value) and value > 0 for value in apart.values())
    width, height = picture_size(tmp_path / "l.png")
    assert width > 3 * height
    done = run_job("losses", *given, "--out", tmp_path / "l.png", *places[:2])
    assert done.code == 2
    assert "need both --data (test images) and --train-data" in done.error


def test_training_images_without_labels_are_refused(models, tmp_path):
    image_table(tmp_path / "a.parquet", [b"no image"] * 3)
    with pytest.raises(UserError, match=r"needs labels or attributes; .* has no label or attribute column"):
        sample_distances(models, str(SAMPLE), str(tmp_path))


@pytest.mark.parametrize("history", [[], [1], [{}], [{"number": "1"}], [{"number": 1, "train_loss": "low"}]])
def test_losses_of_a_damaged_history_are_refused(models, tmp_path, history):
    model = Path(shutil.copytree(models["bernoulli"], tmp_path / "model"))
    manifest = json.loads((model / "manifest.json").read_text())
    manifest["result"]["history"] = history
    (model / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"manifest\.json is damaged: an epoch of its history"):
        losses(models=[str(model)], out=str(tmp_path / "l.png"))
