"""No request fails while replicas start and stop under streams and keep-alive connections."""

import json
import subprocess
import sys

import pytest

from lbae.distributed.serve.split_topology import ROLES
from tests.conftest import ROOT


@pytest.mark.slow
def test_no_request_fails_while_replicas_start_and_stop(pipeline):
    command = [sys.executable, "-m", "tests.distributed.autoscaling_soak", "120", pipeline.bundle]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    counts = facts["replicas"]
    assert max(counts) > 1, "replicas were added"
    assert counts[-1] < max(counts) or sorted(counts) != counts, "and removed"
    assert set(facts["seen"]) == {"stream", "short"}, facts
    assert min(facts["seen"].values()) > 20


@pytest.mark.slow
def test_every_deployment_of_a_split_service_scales_alone(pipeline):
    """Two nodes, and a GPU that is pretended: only the codec takes it."""
    command = [sys.executable, "-m", "tests.distributed.deployments_soak", pipeline.bundle]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    assert (facts["topology"], facts["gpus"]) == ("split", 0.5)
    for name, scaled in facts["scaled"].items():
        assert scaled["up"], (name, facts)
        assert scaled["down"], (name, facts)
        assert scaled["most"] == dict.fromkeys(ROLES, 1) | {name: 2}, "and no other deployment"
    assert facts["scaled"].keys() == ROLES.keys()
    assert set(facts["seen"]) == {*ROLES, "image"}, facts
