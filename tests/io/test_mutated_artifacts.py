"""Artifacts whose files were mutated are refused with the package's own error, or are usable and finite."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize("rounds", [4, pytest.param(1000, marks=pytest.mark.slow)])
def test_mutated_artifacts_are_refused_or_usable(tmp_path, rounds):
    done = subprocess.run(
        [sys.executable, "-m", "tests.io.mutate_artifacts", tmp_path, str(rounds)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, f"the process ended at {Path(tmp_path, 'last').read_text()}: {done.stderr}"
    for kind, found in json.loads(done.stdout).items():
        assert not found["failed"], kind
        assert found["refused"], kind
        assert found["used"], kind
