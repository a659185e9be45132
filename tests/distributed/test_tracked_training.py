"""Tracked jobs on Ray: one run although a worker dies and the driver is killed, and a whole pipeline."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.util.state import list_actors

from lbae.jobs.build.train import train
from tests.conftest import ROOT
from tests.mlflow_server import mlflow_server

SMALL = {"preset": "demo", "epochs": 12, "workers": 2, "batch_size": 32}


def worker_pids() -> set[int]:
    return {
        actor.pid
        for actor in list_actors()
        if actor.state == "ALIVE" and "RayTrainWorker" in actor.class_name
    }


def wait_until(check, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as uri:
        yield uri


@pytest.fixture(autouse=True)
def experiment(request, monkeypatch) -> str:
    """An experiment per test."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", request.node.name)
    return request.node.name


@pytest.mark.slow
def test_one_run_although_a_worker_dies_and_the_driver_is_killed(
    ray_session, server, experiment, tmp_path, digits
):
    from mlflow import MlflowClient

    board = tmp_path / "m-checkpoints" / "tensorboard"

    def epochs() -> int:
        return len(list(board.glob("events*")))

    options = {"data": str(digits), "out": str(tmp_path / "m"), "track": f"mlflow:{server}", **SMALL}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    job = subprocess.Popen(
        [sys.executable, "jobs/train.py", *words],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: epochs() >= 1)
    dead = worker_pids()
    os.kill(min(dead), signal.SIGKILL)
    wait_until(lambda: worker_pids() - dead and epochs() >= 3)
    job.kill()
    assert job.wait() == -signal.SIGKILL
    Path(f"{tmp_path}/m-checkpoints.lock").unlink()  # else the next job waits for the dead job's lock

    result = train(**options)
    again = train(**{name: value for name, value in options.items() if name != "track"})
    assert again == {**result, "already": True}, "the option changes neither results nor what is done"

    client = MlflowClient(tracking_uri=server)
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["lbae.model"] == result["fingerprint"]
    logged = client.get_metric_history(run.info.run_id, "validation_loss")
    trained = [
        (epoch["number"], pytest.approx(epoch["validation_loss"], rel=1e-6)) for epoch in result["history"]
    ]
    assert [(point.step, point.value) for point in logged] == trained
    pictures = client.list_artifacts(run.info.run_id, "images")
    assert len([file for file in pictures if file.path.endswith(".png")]) >= SMALL["epochs"]


@pytest.mark.slow
def test_a_finished_pipeline_is_tracked_whole_and_runs_nothing_again(
    job, pipeline, server, experiment, tmp_path
):
    from mlflow import MlflowClient

    out, config = tmp_path / "out", tmp_path / "c.toml"
    shutil.copytree(pipeline.out, out)
    stages = '[train]\npreset = "demo"\nepochs = 12\nworkers = 2'
    config.write_text(f'data = "{pipeline.data}"\nout = "{out}"\n{stages}')
    for _ in range(2):
        done = job("pipeline", "--config", config, "--track", f"mlflow:{server}")
        assert done.code == 0, done.err
        assert json.loads(done.out)["already"]
    client = MlflowClient(tracking_uri=server)
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    assert run.data.tags["lbae.model"] == pipeline.results[0]["fingerprint"]
    assert len(client.get_metric_history(run.info.run_id, "bits/entropy")) == 12
