"""`ray job submit` to a cluster of two nodes: the README's command, mistakes, and stopped jobs."""

import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package

from lbae.io.artifacts.manifest import read_manifest
from tests.conftest import ROOT, readme_blocks

GCS, DASHBOARD = 6390, 8366  # ports that no other Ray on this machine uses
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """Two nodes with one CPU each, started by `ray start`; yields the environment of a permitted client."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # pytest's own folder makes socket paths too long
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # as after activating .venv
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # otherwise a stopped node waits half a minute
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{DASHBOARD}",
        }
        # Any free port for the agent: if another Ray has the default one, the node accepts no submissions.
        node = [
            "--block",
            "--num-cpus",
            "1",
            "--object-store-memory",
            str(2**28),
            "--dashboard-agent-listen-port",
            "0",
        ]
        head = ["--head", "--port", str(GCS), "--dashboard-port", str(DASHBOARD), "--temp-dir", folder]
        started = []
        try:
            for options in (head, ["--address", f"127.0.0.1:{GCS}"]):
                with open(f"{folder}/node-{len(started)}.log", "w") as log:
                    command = ["ray", "start", "--node-ip-address", "127.0.0.1", *node, *options]
                    started.append(
                        subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
                    )
                while "runtime started" not in Path(log.name).read_text():
                    assert started[-1].poll() is None, Path(log.name).read_text()
                    time.sleep(0.5)
            yield environment
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait(timeout=60)


def submit(environment: dict[str, str], command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command with ``ray job submit``; retry until a node accepts submissions."""
    for _ in range(12):  # the agent of a node starts later than the node
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False
        )
        if "No available agent" not in done.stderr:
            return done
        time.sleep(5)
    raise TimeoutError("no node accepts submissions")


class Submitted:
    """Jobs submitted to a cluster, with the code of this checkout and cluster/runtime_env.yaml."""

    def __init__(self, environment: dict[str, str], jobs: httpx.Client) -> None:
        self._environment, self._jobs, self._count = environment, jobs, 0

    def start(self, *command: object) -> str:
        """Submit ``python jobs/COMMAND`` and return the name of the submission."""
        self._count += 1
        name = f"job-{os.getpid()}-{self._count}"
        options = [
            "--no-wait",
            "--submission-id",
            name,
            "--working-dir",
            ".",
            "--runtime-env",
            "cluster/runtime_env.yaml",
        ]
        job = ["python", f"jobs/{command[0]}", *map(str, command[1:])]
        done = submit(self._environment, ["ray", "job", "submit", *options, "--", *job])
        assert done.returncode == 0, done.stdout + done.stderr
        return name

    def details(self, name: str) -> dict[str, Any]:
        """The cluster's details of a job."""
        found: dict[str, Any] = self._jobs.get(f"/{name}").raise_for_status().json()
        return found

    def logs(self, name: str) -> str:
        """The log of a job."""
        return str(self._jobs.get(f"/{name}/logs").raise_for_status().json()["logs"])

    def end(self, name: str) -> dict[str, Any]:
        """Wait for the end of a job and return its details."""
        while (details := self.details(name))["status"] not in ENDED:
            time.sleep(0.5)
        return details

    def stop_when(self, name: str, begun: Callable[[], bool]) -> str:
        """Stop a job once ``begun`` is true; return its log."""
        while not begun():
            assert self.details(name)["status"] not in ENDED, self.logs(name)
            time.sleep(0.2)
        self._jobs.post(f"/{name}/stop").raise_for_status()
        assert self.end(name)["status"] == "STOPPED"
        return self.logs(name)


@pytest.fixture
def submitted(cluster) -> Iterator[Submitted]:
    bearer = {"Authorization": f"Bearer {cluster['RAY_AUTH_TOKEN']}"}
    with httpx.Client(
        base_url=f"{cluster['RAY_API_SERVER_ADDRESS']}/api/jobs", headers=bearer, timeout=90
    ) as jobs:
        yield Submitted(cluster, jobs)


@pytest.mark.slow
def test_a_submitted_job_trains_on_two_nodes(cluster, tmp_path, digits):
    asked = next(line for line in readme_blocks("bash")[-1].splitlines() if "job submit" in line)
    asked = re.sub(r"\$PWD/lbae\S+", str(digits), asked).replace("$PWD/runs", str(tmp_path)) + " --workers 2"
    done = submit(cluster, ["bash", "-c", asked])
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"kind": "model"' in done.stdout
    manifest = json.loads((tmp_path / "submitted" / "model" / "manifest.json").read_bytes())
    assert manifest["config"]["workers"] == 2  # each needs a CPU, so there was one per node


def test_the_upload_of_a_submitted_job_is_small(tmp_path):
    package = tmp_path / "package.zip"
    create_package(str(ROOT), package, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    with zipfile.ZipFile(package) as file:
        names = set(file.namelist())
    assert package.stat().st_size < 5e6
    assert {
        "jobs/train.py",
        "lbae/cli.py",
        "lbae/sample/mnist/part-00000.parquet",
        "requirements.lock",
    } <= names
    assert not [name for name in names if name.startswith(("tests/", "docs/", "runs/", ".git/", ".venv/"))]


@pytest.mark.slow
def test_a_mistake_is_in_the_log_and_its_exit_code_in_the_details(cluster, submitted):
    name = f"mistake-{os.getpid()}"
    command = [
        "ray",
        "job",
        "submit",
        "--submission-id",
        name,
        "--working-dir",
        ".",
        "--",
        "python",
        "jobs/show.py",
        "nowhere",
    ]
    done = submit(cluster, command)
    assert "error: there is no artifact at nowhere: it does not exist" in done.stdout
    assert (done.returncode, submitted.end(name)["driver_exit_code"]) == (1, 2), (
        "the exit codes of Ray and of the job"
    )


@pytest.mark.slow
def test_without_the_token_nothing_is_submitted(cluster, tmp_path):
    stranger = {**cluster, "RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": ""}
    done = submit(stranger, ["ray", "job", "submit", "--", "touch", str(tmp_path / "here")])
    assert done.returncode != 0
    assert "authentication is enabled" in done.stderr
    assert not (tmp_path / "here").exists()


@pytest.mark.slow
def test_stopped_jobs_leave_no_unfinished_artifact_and_resume(submitted, digits, tmp_path):
    model, checkpoints, latents = tmp_path / "model", tmp_path / "model-checkpoints", tmp_path / "latents"
    train = ("train.py", "--preset", "demo", "--data", digits, "--epochs", 12, "--out", model)
    said = submitted.stop_when(submitted.start(*train), lambda: any(checkpoints.rglob("checkpoint_*")))
    assert said.endswith("error: stopped\n")
    assert not (model / "manifest.json").exists()
    assert any(checkpoints.rglob("checkpoint_*"))
    assert submitted.end(submitted.start(*train))["driver_exit_code"] == 0

    lock = tmp_path / "latents.lock"
    encode = ("encode.py", "--model", model, "--data", digits, "--out", latents)
    said = submitted.stop_when(
        submitted.start(*encode), lambda: lock.exists() and (latents / ".unfinished").exists()
    )
    assert said.endswith("error: stopped\n")
    assert not lock.exists()
    assert not (latents / "manifest.json").exists()
    assert submitted.end(submitted.start(*encode))["driver_exit_code"] == 0
    assert read_manifest(str(latents)).rows == 600
