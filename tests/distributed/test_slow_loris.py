"""A client is answered while thousands of connections send requests that never end, or nothing."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT, service

PORT = 18131


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "connections", "kind"),
    [  # as many as HAProxy accepts; Ray Serve's own proxy, which accepts any number
        ("127.0.0.1", 4096, "headers"),
        ("127.0.0.1", 4096, "idle"),
        ("::1", 200, "headers"),
    ],
)
def test_connections_that_are_held_do_not_keep_others_out(pipeline, host, connections, kind):
    with service("--bundle", pipeline.bundle, "--port", str(PORT), "--host", host) as facts:
        script = [sys.executable, "-m", "tests.distributed.slow_loris"]
        command = [*script, facts["url"], str(connections), "15", kind]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["held"] == connections
    assert seen["closed"] >= connections
    assert seen["answered"] > 0
    assert seen["unanswered"] == 0
