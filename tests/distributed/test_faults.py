"""Moment sums are exact after the death of a worker or of a node."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from lbae.core.latents.packing import pack
from lbae.core.moments.moment_accumulator import sum_packed
from tests.conftest import ROOT, write_latents

ROWS, N = 200_000, 400


@pytest.mark.slow
def test_sums_are_exact_after_a_worker_and_a_node_die(tmp_path):
    latents = np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.int8), size=(ROWS, N))
    uri = write_latents(tmp_path / "latents", latents, parts=8)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "tests.distributed.two_nodes", uri, str(tmp_path), "20"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    runs = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [run["victim"] for run in runs] == ["worker", "node"]
    expected = sum_packed(pack(latents), N).sums
    for run in runs:
        np.testing.assert_array_equal(np.load(tmp_path / f"{run['victim']}.npy"), expected)
        assert run["tasks"] == 20
        assert run["killed"]
    sums_bytes = 8 * (N + 1) ** 2
    assert runs[0]["bytes_moved"] == sums_bytes, "the second node sent one sum, not one per partial"
