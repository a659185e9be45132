"""No request fails under load while replicas die and bundles are swapped."""

import json
import subprocess
import sys

import pytest

from tests.bundles import untrained_bundle
from tests.conftest import ROOT


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "nodes", "seconds"),
    [("split", 1, 60), ("fused", 3, 60)],
)
def test_no_request_fails_while_replicas_and_nodes_die_and_bundles_change(
    pipeline, tmp_path, topology, nodes, seconds
):
    bundles = [pipeline.bundle, untrained_bundle(pipeline, tmp_path)]
    command = [sys.executable, "-m", "tests.distributed.soak", topology, str(nodes), str(seconds), *bundles]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    if nodes == 3:
        assert facts["killed"] == ["stuck", "drained", "node"]
        # When its node ends, the kernel wakes the suspended replica. It then answers 504 to its pending
        # requests, at most one per client, and clients do not retry a timeout.
        assert facts["seen"].pop("timeout", 0) <= 6
    else:
        assert len(facts["killed"]) in {4, 5}  # a registry may not have restarted yet
        assert "BundleRegistry" in facts["killed"]
    # No request failed, and no image came from another bundle.
    assert set(facts["seen"]) == {"slowest_ms", *facts["bundles"]}, facts
    assert min(facts["seen"][name] for name in facts["bundles"]) > 10
    assert max(facts["after_mb"]) < 1.2 * max(facts["before_mb"])
