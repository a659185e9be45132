"""The GPU script runs to its end with pretended GPUs, so that no minute of a real one is lost."""

import json
import os
import subprocess
import sys

import pytest
import torch

from lbae.distributed.cluster.device import PRETEND_GPUS
from tests.benchmarks import on_gpu
from tests.conftest import ROOT


def test_without_a_gpu_the_script_says_so(monkeypatch, capsys):
    monkeypatch.delenv(PRETEND_GPUS, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert on_gpu.main([]) == 2
    assert "skipped: torch" in capsys.readouterr().err


def test_the_parts_fit_into_eight_minutes():
    assert sum(on_gpu.LIMITS_S.values()) <= 8 * 60


@pytest.mark.slow
def test_every_part_runs_to_its_end():
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.on_gpu"],
        cwd=ROOT,
        env=environment | {PRETEND_GPUS: "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    rows = {(part, what): figure for part, what, figure in facts["rows"]}
    assert facts["hardware"].startswith("pretended GPUs")
    assert {part for part, _ in rows} == set(on_gpu.LIMITS_S)
    for row in (
        ("doctor", "GPUs of the cluster"),
        ("step", "demo, batch of 2, compiled, CUDA graphs"),
        ("feed", "demo, streaming"),
        ("encode", "demo"),
        ("serve", "split, 16 requests of 16 at a time"),
    ):
        assert row in rows
