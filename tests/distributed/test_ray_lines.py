"""What Ray adds to a job's standard error: nothing in a successful run, and only JSON with LBAE_LOG=json."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT, image_table

GOLDEN = "tests/golden/v1"


def run_job(name: str, *arguments: object, form: str = "plain") -> subprocess.CompletedProcess[str]:
    """Run a job with its own local Ray, whose core writes to the job's standard error."""
    command = [sys.executable, f"jobs/{name}.py", "--address", "local", *map(str, arguments)]
    environment = {**os.environ, "LBAE_LOG": form}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_successful_run_shows_no_line_of_ray(digits, tmp_path):
    done = run_job("encode", "--model", f"{GOLDEN}/model", "--data", digits, "--out", tmp_path / "latents")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"(encode: .*\n)+", done.stderr), done.stderr
    done = run_job("sample", "--bundle", f"{GOLDEN}/bundle", "--num", 3000, "--out", tmp_path / "table")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"(sample: .*\n)+", done.stderr), done.stderr


@pytest.mark.slow
def test_a_failure_shows_only_lines_of_json(tmp_path):
    image_table(tmp_path / "a.parquet", [b"no image", None])
    where = ("--data", tmp_path / "a.parquet", "--out", tmp_path / "latents")
    done = run_job("encode", "--model", f"{GOLDEN}/model", *where, form="json")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode != 0
    assert (lines[-1]["level"], "could not be decoded" in lines[-1]["message"]) == ("ERROR", True), lines
