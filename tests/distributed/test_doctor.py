"""``jobs/doctor.py``: its checks and its exit code."""

import json
import subprocess
import sys

from tests.conftest import ROOT


def test_failed_checks_say_what_to_fix(job, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1")
    done = job("doctor", "--storage", tmp_path, "--storage", "/proc/none", "--gpus", 10_000)
    facts = json.loads(done.out)
    failed = {check["name"]: check["note"] for check in facts["checks"] if not check["ok"]}
    assert (done.code, facts["ok"]) == (1, False)
    assert (
        "10000 GPUs are needed; the cluster has 0 after 1 s: start nodes that have them"
        in failed["GPUs of the cluster"]
    )
    assert "cannot be used from here" in failed["storage /proc/none"]
    passed = {check["name"] for check in facts["checks"]} - set(failed)
    assert {"token", "Ray", f"storage {tmp_path}", f"storage {tmp_path} from all nodes"} <= passed
    lines = done.err.splitlines()
    assert len(lines) == len(facts["checks"]) + 1, "one more line says that it waits for nodes"
    lines = [line for line in lines if "waiting up to 1 s for nodes" not in line]
    assert [line.split()[0] for line in lines] == [
        "ok" if check["ok"] else "FAILS" for check in facts["checks"]
    ]


def test_a_cluster_that_does_not_answer_fails_its_check():
    # In a subprocess, because this process is connected to Ray.
    command = [sys.executable, "jobs/doctor.py", "--address", "127.0.0.1:1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = json.loads(done.stdout)["checks"][-1]
    assert (last["name"], last["ok"]) == ("Ray", False)
    assert "no Ray cluster answers at 127.0.0.1:1" in last["note"]
