"""Tracking: what a storage holds is copied to a service that may fail, in one run per training."""

import io
import json
import logging
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lbae
from lbae import presets
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.errors import LbaeError, UserError
from lbae.io.artifacts.checkpoints import begin_run
from lbae.io.artifacts.model_artifact import save_model
from lbae.io.artifacts.output import Output
from lbae.io.images import encode_png
from lbae.report.figures.tensorboard_events import log_epoch, read_epochs
from lbae.report.tracking import background
from lbae.report.tracking.background import kept_up_to_date
from lbae.report.tracking.evaluation import MEASURED, track_evaluation
from lbae.report.tracking.service import tracking_service
from lbae.report.tracking.training import track_finished_training, tracked_training
from tests.conftest import ROOT
from tests.mlflow_server import mlflow_server

BUNDLE = str(ROOT / "tests" / "golden" / "v1" / "bundle")
NOBODY = "http://127.0.0.1:9"
LATENTS = np.where(np.arange(24).reshape(3, 8) % 3 == 0, -1, 1).astype(np.int8)


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing leaves this machine."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


class Training:
    """A storage as workers leave it, and a model as the job publishes it; both without training."""

    def __init__(self, folder: Path) -> None:
        self.storage, self.out = str(folder / "mine" / "model-checkpoints"), str(folder / "mine" / "model")
        self.config = presets.get("demo").replace(epochs=3)
        self.options = {**self.config.to_dict(), "workers": 2, "feed": "resident"}
        begin_run(self.storage, {"parent": {"data": "d1"}, **self.options}, overwrite=False, restart=False)

    def train(self, *epochs: int) -> None:
        for epoch in epochs:
            pictures = np.full((2, 8, 28, 28, 1), epoch, dtype=np.uint8)
            numbers = {"train_loss": 10.0 / epoch, "images_per_second": 100.0}
            log_epoch(f"{self.storage}/tensorboard", epoch, numbers, LATENTS, (pictures[0], pictures[1]))

    def publish(self) -> str:
        output = Output(self.out, "model", parents={"data": "d1"}, config=self.options)
        facts = {"device": "cpu", "precision": "float32", "best_epoch": 3, "validation_loss": 3.5}
        network = LatentBernoulliAutoencoder(self.config.model)
        return save_model(output, network, self.config, {**facts, "images": 540, "history": []})[
            "fingerprint"
        ]


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path)


@pytest.mark.parametrize(
    ("track", "message"),
    [
        ("tensorboard:x", "names the service 'tensorboard'; allowed: mlflow:URI, wandb:PROJECT"),
        ("mlflow", "track is 'mlflow'; allowed: mlflow:URI"),
        ("wandb: ", "track is 'wandb: '; allowed"),
        ("mlflow:http:", "names no host; allowed: mlflow:http://HOST:PORT"),
        ("mlflow:bogus://x", "MLflow does not accept the URI 'bogus://x'"),
        (
            "mlflow:https://me:secret@host",
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead",
        ),
        ("mlflow:postgresql://me:sec/ret@host/db", "holds a user or a password"),
        ("https://me:secret@host", "names the service 'https'"),
    ],
)
def test_a_wrong_value_is_refused_and_no_password_is_shown(track, message):
    with pytest.raises(UserError) as refused:
        tracking_service(track)
    assert message in str(refused.value)
    assert "sec" not in str(refused.value)


@pytest.mark.parametrize(("track", "package"), [("mlflow:http://h", "mlflow"), ("wandb:p", "wandb")])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, track, package):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(UserError, match=rf"pip install 'lbae\[{package}\]'"):
        tracking_service(track)


def test_epochs_are_read_as_they_were_written_and_the_newest_file_of_an_epoch_counts(training):
    training.train(1, 2)
    folder = Path(training.storage, "tensorboard")
    (second,) = folder.glob("*.00002")
    stale = folder / second.name.replace("tfevents.1", "tfevents.0")
    stale.write_bytes(b"of a worker that died")
    (folder / ".events.of.a.file.in.progress.tmp").write_bytes(b"half")
    found = list(read_epochs(str(folder), after=0))
    assert [epoch.number for epoch in found] == [1, 2]
    assert found[1].numbers["train_loss"] == 5
    assert found[1].numbers["bits/dead"] == (np.abs(LATENTS.mean(axis=0)) == 1).sum()
    with Image.open(io.BytesIO(found[1].pictures["reconstructions"])) as grid:
        assert np.array(grid).max() >= 2
    assert [epoch.number for epoch in read_epochs(str(folder), after=1)] == [2]
    assert list(read_epochs(f"{training.storage}/nothing", after=0)) == []


class Flaky:
    """A copy whose first updates fail."""

    def __init__(self, failures: int) -> None:
        self.failures, self.calls = failures, []

    def update(self) -> None:
        self.calls.append("update")
        if len(self.calls) <= self.failures:
            raise ConnectionError("refused")

    def finish(self, status: str) -> None:
        self.update()
        self.calls.append(status)


@pytest.mark.parametrize("failures", [0, 1, 99])
def test_failures_are_one_warning_and_the_end_is_tried_once_more(caplog, failures):
    copy = Flaky(failures)
    with kept_up_to_date(copy, "mlflow:x"):
        while not copy.calls:
            pass
    assert copy.calls == ["update", "update", *([] if failures == 99 else ["FINISHED"])]
    assert len(caplog.records) == min(failures, 1)
    if failures:
        assert "tracking by mlflow:x fails (ConnectionError: refused); the job goes on" in caplog.text


@pytest.mark.parametrize(("error", "status"), [(LbaeError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_the_end_of_the_job_is_the_status_of_the_run(error, status):
    copy = Flaky(0)
    with pytest.raises(error), kept_up_to_date(copy, "mlflow:x"):
        raise error
    assert copy.calls[-1] == status


def test_a_server_that_is_gone_stops_nothing_and_is_said_once(training, caplog):
    training.train(1)
    with tracked_training(tracking_service(f"mlflow:{NOBODY}"), training.storage, training.out):
        training.publish()
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.startswith(f"tracking by mlflow:{NOBODY} fails (")
    assert "run again, adds what is missing" in warning


def test_a_server_that_never_answers_delays_the_end_by_a_bounded_time(training, caplog, monkeypatch):
    monkeypatch.setattr(background, "_END_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        service = tracking_service(f"mlflow:http://127.0.0.1:{silent.getsockname()[1]}")
        with tracked_training(service, training.storage, training.out):
            pass
        assert "no answer within 0.2 s of the job's end" in caplog.text


def test_a_finished_training_without_its_storage_is_not_tracked_and_says_so(training, caplog):
    training.publish()
    shutil.rmtree(training.storage)
    track_finished_training(tracking_service(f"mlflow:{NOBODY}"), training.storage, training.out)
    (record,) = caplog.records
    assert "does not hold the run that trained it (any more)" in record.getMessage()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as uri:
        yield uri


def runs(uri: str, experiment: str = "lbae") -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def history(uri: str, run: Any, name: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]


@pytest.mark.slow
def test_a_training_is_one_run_however_often_its_driver_starts(server, training, monkeypatch, caplog):
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "restarts")
    training.train(1)
    with (
        pytest.raises(LbaeError),
        tracked_training(tracking_service(f"mlflow:{server}"), training.storage, training.out),
    ):
        raise LbaeError("a node is lost")
    (run,) = runs(server, "restarts")
    assert run.info.status == "FAILED"

    with tracked_training(tracking_service(f"mlflow:{server}"), training.storage, training.out):
        training.train(2, 3)
        fingerprint = training.publish()
    track_finished_training(tracking_service(f"mlflow:{server}"), training.storage, training.out)
    (run,) = runs(server, "restarts")
    assert (run.info.status, run.info.run_name) == ("FINISHED", "mine/model")
    assert history(server, run, "train_loss") == [(1, 10), (2, 5), (3, pytest.approx(10 / 3))]
    assert [step for step, _ in history(server, run, "bits/entropy")] == [1, 2, 3]
    assert history(server, run, "result/best_epoch") == [(0, 3)]
    assert run.data.params["model.latent_dim"] == "128"
    assert run.data.params["workers"] == "2"
    tags = {name: run.data.tags[f"lbae.{name}"] for name in ("job", "version", "out", "data", "model")}
    assert tags == {
        "job": "train",
        "version": lbae.__version__,
        "out": training.out,
        "data": "d1",
        "model": fingerprint,
    }
    files = [
        file.path for file in MlflowClient(tracking_uri=server).list_artifacts(run.info.run_id, "images")
    ]
    shown = [path for path in files if path.endswith(".png")]
    assert sorted(path.split("+step+")[1][0] for path in shown) == ["1", "2", "3"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.slow
def test_another_training_in_the_same_place_is_another_run(server, training, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "places")
    for _ in range(2):
        options = {"parent": {"data": "d1"}, **training.options}
        begin_run(training.storage, options, overwrite=True, restart=True)
        with tracked_training(tracking_service(f"mlflow:{server}"), training.storage, training.out):
            training.train(1)
            training.publish()
    assert len(runs(server, "places")) == 2


def evaluation(folder: Path) -> str:
    """Publish an evaluation of the golden bundle with the form of a real report."""
    report = {
        **{name: {} for name in MEASURED},
        "distances": {"mixture": {"test images": {"frechet": 1.5}}},
        "reconstructions": {"psnr_db": 20.0},
    }
    files = {
        "report.json": json.dumps(report).encode(),
        "report.html": b"<p>Evaluation",
        "rates.png": encode_png(np.zeros((8, 8, 1), dtype=np.uint8)),
    }
    out = folder / "mine" / "evaluation"
    out.mkdir(parents=True)
    for name, content in files.items():
        (out / name).write_bytes(content)
    output = Output(str(out), "evaluation", parents={"bundle": "b1"}, config={"seed": 0, "priors": ["coins"]})
    output.publish(fingerprint="e1", rows=1, files=files, result={})
    return str(out)


@pytest.mark.slow
def test_an_evaluation_is_one_run_with_its_numbers_page_and_pictures(server, tmp_path):
    from mlflow import MlflowClient

    out = evaluation(tmp_path)
    for _ in range(2):
        track_evaluation(tracking_service(f"mlflow:{server}"), out, BUNDLE)
    (run,) = runs(server)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"distances/mixture/test images/frechet": 1.5, "reconstructions/psnr_db": 20}
    assert run.data.params == {"seed": "0", "priors": "['coins']"}
    model = json.loads(Path(BUNDLE, "manifest.json").read_text())["parents"]["model"]
    assert (run.data.tags["lbae.model"], run.data.tags["lbae.evaluation"]) == (model, "e1")
    client = MlflowClient(tracking_uri=server)
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        "report.json",
        "report.html",
        "rates.png",
    }


@pytest.mark.slow
def test_wandb_offline_writes_one_folder_with_the_pictures(training, tmp_path):
    training.train(1, 2)
    with tracked_training(tracking_service("wandb:digits"), training.storage, training.out):
        training.publish()
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    key = json.loads(Path(training.storage, "tracking.json").read_text())["key"]
    assert folder.name.endswith(key)
    assert len(list(folder.rglob("media/images/reconstructions_*.png"))) == 2

    track_evaluation(tracking_service("wandb:digits"), evaluation(tmp_path / "e"), BUNDLE)
    (folder,) = (tmp_path / "wandb").glob("offline-run-*-e1")
    assert list(folder.rglob("report_*.html"))
    assert list(folder.rglob("rates_*.png"))
    assert list(folder.rglob("report.json"))
