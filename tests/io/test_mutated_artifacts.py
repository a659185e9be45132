"""Artifacts whose files were mutated are refused with the package's own error, or are usable and finite."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.io.mutate_artifacts import USES


@pytest.mark.parametrize(
    ("rounds", "kinds"),
    [(4, tuple(USES)), *(pytest.param(1000, (kind,), marks=pytest.mark.slow) for kind in USES)],
)
def test_mutated_artifacts_are_refused_or_usable(tmp_path, rounds, kinds):
    done = subprocess.run(
        [sys.executable, "-m", "tests.io.mutate_artifacts", tmp_path, str(rounds), *kinds],
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
