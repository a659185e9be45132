"""`ray job submit` with the README's command, to the dashboard of this run's Ray."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from tests.conftest import ROOT, readme_blocks


@pytest.mark.slow
def test_a_submitted_job_trains(ray_session, tmp_path, digits):
    submit = readme_blocks("bash")[3].strip().splitlines()[1]
    submit = re.sub(r"\$PWD/lbae\S+", str(digits), submit).replace("$PWD/runs", str(tmp_path))
    words = shlex.split(submit)
    words[3:3] = ["--address", f"http://{ray._private.worker.get_dashboard_url()}"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "RAY_AUTH_MODE": "token"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"kind": "model"' in done.stdout
    assert (tmp_path / "submitted" / "model" / "manifest.json").exists()
