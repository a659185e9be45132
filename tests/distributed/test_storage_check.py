"""Storage that one of two nodes cannot reach is an error before work starts, and so is another image."""

import json
import subprocess
import sys
from importlib.metadata import version

import pytest
from packaging.version import Version

from tests.conftest import ROOT


@pytest.mark.slow
def test_storage_that_a_node_cannot_reach_is_named(s3, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    command = [sys.executable, "-m", "tests.distributed.probe_two_nodes", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["shared"] == "4 new", "two nodes, two places"
    assert said["again"] == "0 new", "a folder is checked once"
    for name, place, why in (
        ("bucket written", "s3://bucket", "Could not connect"),
        ("bucket read", "s3://bucket/file", "Could not connect"),
        ("not there", f"{tmp_path}/nothing", "it does not exist there"),
    ):
        assert said[name].startswith("node ")
        assert f"cannot reach {place}: " in said[name]
        assert why in said[name]
        assert "all nodes need the same storage" in said[name]
    assert f"has torch 1.0 where the job has {Version(version('torch')).public}" in said["another image"]
    assert "start them from one image" in said["another image"]
    assert [path.name for path in tmp_path.iterdir()] == ["data"], "nothing is left behind"
