"""`ray job submit` with the README's command, to a cluster of two nodes."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from tests.conftest import ROOT, readme_blocks


@pytest.fixture
def dashboard(monkeypatch) -> Iterator[str]:
    """The address of a cluster of two nodes with a CPU each."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")  # as after activating .venv
    node = {"num_cpus": 1, "object_store_memory": 2**28}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": True, "dashboard_port": 8366})
    cluster.add_node(**node)
    yield f"http://{cluster.head_node.webui_url}"
    cluster.shutdown()


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
