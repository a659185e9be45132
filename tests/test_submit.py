"""`ray job submit` with the README's command, to a cluster of two nodes; mistakes, and jobs that are stopped."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package
from ray.cluster_utils import Cluster
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from lbae.io.artifact import read_manifest
from tests.conftest import ROOT, SAMPLE, readme_blocks


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    """The address of a cluster of two nodes with a CPU each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")  # as after activating .venv
        node = {"num_cpus": 1, "object_store_memory": 2**28}
        # Of the agent any free port: where another Ray on this machine has the default one, nobody takes submissions.
        head = {"include_dashboard": True, "dashboard_port": 8366, "dashboard_agent_listen_port": 0}
        cluster = Cluster(initialize_head=True, head_node_args={**node, **head})
        cluster.add_node(**node)
        yield f"http://{cluster.head_node.webui_url}"
        cluster.shutdown()


class Submitted:
    """Jobs submitted to a cluster, with the code of this checkout."""

    def __init__(self, dashboard: str) -> None:
        self.client = JobSubmissionClient(dashboard)

    def start(self, *command: object) -> str:
        """Submit ``python jobs/COMMAND``; its submission's name."""
        environment = {"working_dir": str(ROOT), "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}}
        for _ in range(12):  # a node's agent takes submissions some time after the node is there
            with suppress(RuntimeError):
                return self.client.submit_job(
                    entrypoint=f"python jobs/{shlex.join(map(str, command))}", runtime_env=environment
                )
            time.sleep(5)
        raise TimeoutError("no node takes submissions")

    def end(self, name: str) -> JobDetails:
        """Wait for its end."""
        while not (details := self.client.get_job_info(name)).status.is_terminal():
            time.sleep(0.5)
        return details

    def stop_when(self, name: str, begun: Callable[[], bool]) -> str:
        """Stop it once something is there; what it said."""
        while not begun():
            assert not self.client.get_job_status(name).is_terminal(), self.client.get_job_logs(name)
            time.sleep(0.2)
        self.client.stop_job(name)
        assert self.end(name).status == JobStatus.STOPPED
        return self.client.get_job_logs(name)


@pytest.fixture
def submitted(dashboard) -> Submitted:
    return Submitted(dashboard)


@pytest.mark.slow
def test_a_submitted_job_trains_on_two_nodes(dashboard, tmp_path, digits):
    submit = readme_blocks("bash")[4].strip().splitlines()[1]
    submit = re.sub(r"\$PWD/lbae\S+", str(digits), submit).replace("$PWD/runs", str(tmp_path))
    environment = {**os.environ, "RAY_API_SERVER_ADDRESS": dashboard}
    command = ["bash", "-c", submit]
    for _ in range(12):  # a node's agent takes submissions some time after the node is there
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False)
        if "No available agent" not in done.stderr:
            break
        time.sleep(5)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"kind": "model"' in done.stdout
    manifest = json.loads((tmp_path / "submitted" / "model" / "manifest.json").read_bytes())
    assert manifest["config"]["workers"] == 2  # of one CPU each, so one a node


def test_what_goes_with_a_submitted_job_is_small(tmp_path):
    package = tmp_path / "package.zip"
    create_package(str(ROOT), package, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    with zipfile.ZipFile(package) as file:
        names = set(file.namelist())
    assert package.stat().st_size < 5e6
    assert {"jobs/train.py", "lbae/cli.py", "lbae/sample/mnist/part-00000.parquet", "requirements.lock"} <= names
    assert not [name for name in names if name.startswith(("tests/", "docs/", "runs/", ".git/", ".venv/"))]


@pytest.mark.slow
def test_a_mistake_is_told_and_its_exit_code_is_in_the_details(submitted, dashboard):
    asked = ["ray", "job", "submit", "--submission-id", f"mistake-{os.getpid()}", "--working-dir", ROOT]
    done = subprocess.run(
        [*asked, "--address", dashboard, "--", "python", "jobs/show.py", "nowhere"],
        capture_output=True,
        text=True,
        check=False,
    )
    details = submitted.end(asked[4])
    assert "error: there is no artifact at nowhere: it does not exist" in done.stdout
    assert (done.returncode, details.driver_exit_code) == (1, 2), "Ray's own code, and the job's"


@pytest.mark.slow
def test_stopped_jobs_leave_no_half_artifact_and_go_on(submitted, digits, tmp_path):
    model, checkpoints, latents = tmp_path / "model", tmp_path / "model-checkpoints", tmp_path / "latents"
    train = ("train.py", "--preset", "demo", "--data", digits, "--epochs", 12, "--out", model)
    said = submitted.stop_when(submitted.start(*train), lambda: any(checkpoints.rglob("checkpoint_*")))
    assert said.endswith("error: stopped\n")
    assert not (model / "manifest.json").exists()
    assert any(checkpoints.rglob("checkpoint_*"))
    assert submitted.end(submitted.start(*train)).driver_exit_code == 0

    data, lock = tmp_path / "data", tmp_path / "latents.lock"
    for copy in range(4):
        shutil.copytree(SAMPLE, data / str(copy))
    encode = ("encode.py", "--model", model, "--data", data, "--out", latents)
    said = submitted.stop_when(submitted.start(*encode), lambda: lock.exists() and (latents / ".unfinished").exists())
    assert said.endswith("error: stopped\n")
    assert not lock.exists()
    assert not (latents / "manifest.json").exists()
    assert submitted.end(submitted.start(*encode)).driver_exit_code == 0
    assert read_manifest(str(latents)).rows == 40_000
