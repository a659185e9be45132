"""What survives the death of a worker or of a node: every sum."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from lbae.core.kernel import moment_sums
from lbae.core.packing import pack
from tests.conftest import ROOT, write_latents

ROWS, N = 200_000, 400


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["worker", "node"])
def test_sums_survive_on_two_nodes(tmp_path, victim):
    latents = np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.int8), size=(ROWS, N))
    uri = write_latents(tmp_path / "latents", latents, parts=8)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "tests.distributed.two_nodes", uri, str(tmp_path / "sums.npy"), "20", victim]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    np.testing.assert_array_equal(np.load(tmp_path / "sums.npy"), moment_sums(pack(latents), N).sums)
    assert facts["tasks"] == 20
    assert facts["killed"]
    if victim == "worker":
        sums_bytes = 8 * (N + 1) ** 2
        assert facts["bytes_moved"] == sums_bytes, "the second node sent one sum, whatever the number of its partials"
