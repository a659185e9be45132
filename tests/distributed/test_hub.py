"""Jobs of a cluster and a service that read from the Hub: its workers download what they need themselves."""

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from lbae.io.artifacts.manifest import read_manifest
from lbae.jobs.use.push import push
from tests.conftest import ROOT, service
from tests.hub_server import WRITER, running_hub

GOLDEN = ROOT / "tests" / "golden" / "v1"
LOCAL = ("--address", "local")  # workers of the tests' Ray do not know this Hub
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:Use 'content=<...>':DeprecationWarning"
    ),  # of huggingface_hub's uploads
]


def run(*command: object) -> dict:
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_jobs_and_a_service_read_from_the_hub(digits: Path, tmp_path, monkeypatch):
    with running_hub(monkeypatch, str(tmp_path / "cache")) as hub:
        monkeypatch.setenv("HF_TOKEN", WRITER)
        model, version = (
            push(str(GOLDEN / "model"), "hf://some/encoder"),
            push(str(GOLDEN / "bundle"), "hf://some/faces"),
        )
        places = ("--model", "hf://some/encoder", "--data", digits, "--out", tmp_path / "codes")
        codes = run("jobs/encode.py", *places, *LOCAL)
        assert codes["model"] == model["version"]
        push(str(tmp_path / "codes"), "hf://datasets/some/codes")
        asked = ("jobs/reduce.py", "--out", tmp_path / "sums", *LOCAL)
        sums = run(*asked, "--latents", "hf://datasets/some/codes")
        assert read_manifest(sums["out"]).parents["latents"] == codes["fingerprint"]
        with service("--bundle", "hf://some/faces", "--port", "18131", *LOCAL) as facts:
            assert facts["bundle"] == version["fingerprint"]
            answer = httpx.post(f"{facts['url']}/v1/sample", json={"n": 2, "seed": 0}, timeout=60)
            assert answer.status_code == 200
        assert any("parquet" in request for request in hub.requests)
