"""A client is answered while thousands of connections send requests that never end."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT, service

PORT = 18131


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "connections"),
    [("127.0.0.1", 4096), ("::1", 200)],  # as many as HAProxy accepts; Ray Serve's own proxy
)
def test_requests_that_never_end_do_not_keep_others_out(pipeline, host, connections):
    with service("--bundle", pipeline.bundle, "--port", str(PORT), "--host", host) as facts:
        command = [sys.executable, "-m", "tests.distributed.slow_loris", facts["url"], str(connections), "15"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["held"] == connections
    assert seen["closed"] >= connections
    assert seen["answered"] > 0
    assert seen["unanswered"] == 0
