"""Stages that other tests do not try: a node dies while it works on them, and nothing is lost.

Elsewhere: train and its smaller runs in test_train, encode in test_encode, reduce in test_faults, evaluate in
report/test_evaluation, the pipeline in test_cluster, the service in test_soak.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lbae.jobs.build.fit import fit
from lbae.jobs.build.ingest import ingest
from lbae.jobs.use.sample import sample
from tests.conftest import QUICK_DEATH, ROOT, SAMPLE, Pipeline

JOBS = {"ingest": ingest, "fit": fit, "sample": sample}


@pytest.mark.slow
def test_ingest_fit_and_sample_lose_nothing_when_a_node_dies(pipeline: Pipeline, tmp_path: Path) -> None:
    def options(folder: str) -> dict[str, dict]:
        bundle = f"{tmp_path}/{folder}-bundle"
        return {
            "ingest": {"source": str(SAMPLE), "out": f"{tmp_path}/{folder}-images", "distinct": True},
            "fit": {**pipeline.made_from, "out": bundle, "components": "10"},
            "sample": {"bundle": bundle, "out": f"{tmp_path}/{folder}-samples", "num": 4096},
        }

    whole = {name: JOBS[name](**given)["fingerprint"] for name, given in options("whole").items()}
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | QUICK_DEATH
    done = subprocess.run(
        [sys.executable, "-m", "tests.distributed.dying_in_every_stage", json.dumps(options("lost"))],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lost = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [stage["stage"] for stage in lost if stage["killed"]] == list(JOBS)
    assert done.stderr.count("left the cluster") == len(JOBS), "each loss is said"
    assert {stage["stage"]: stage["fingerprint"] for stage in lost} == whole
