"""`ray job submit` with the README's command, to the dashboard of this run's Ray."""

import os
import re
import subprocess

import pytest
import ray

from tests.conftest import ROOT, readme_blocks


@pytest.mark.slow
def test_a_submitted_job_trains(ray_session, tmp_path, digits):
    submit = readme_blocks("bash")[4].strip().splitlines()[1]
    submit = re.sub(r"\$PWD/lbae\S+", str(digits), submit).replace("$PWD/runs", str(tmp_path))
    environment = {**os.environ, "RAY_API_SERVER_ADDRESS": f"http://{ray._private.worker.get_dashboard_url()}"}
    command = ["bash", "-c", submit]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"kind": "model"' in done.stdout
    assert (tmp_path / "submitted" / "model" / "manifest.json").exists()
