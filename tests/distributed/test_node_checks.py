"""Checks of all nodes: packages, object stores and GPUs; what differs is named with its node."""

import json
import subprocess
import sys
from importlib.metadata import version

import pytest
from packaging.version import Version

from lbae.distributed.cluster.node_checks import _packages
from tests.conftest import ROOT


def test_differing_packages_are_named_with_the_nodes_that_have_them():
    here, there = {"torch": "2.9", "scipy": "1"}, {"torch": "2.8", "scipy": "1"}
    check = _packages({"a": here, "b": here, "c": there}, [])
    assert (check.ok, check.note) == (
        False,
        "torch is 2.9 on a, b, but 2.8 on c: start all nodes from one image",
    )
    assert _packages({"a": here, "b": here}, []).note == "2 nodes, all alike"
    assert _packages({"a": here}, ["node b did not answer"]).note == "node b did not answer"


@pytest.mark.slow
def test_a_node_of_another_image_without_shared_memory_and_gpus_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    command = [sys.executable, "-m", "tests.distributed.check_nodes_of_two_images", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    alike, checks = map(json.loads, done.stdout.splitlines()[-2:])
    assert [(check["name"].split()[0], check["ok"]) for check in alike] == [
        ("packages", True),
        ("/dev/shm", True),
        ("GPUs", True),
    ]
    assert "2 nodes, all alike" in alike[0]["note"]
    assert "2 pretended (LBAE_PRETEND_GPUS=1)" in alike[2]["note"]

    three = {check["name"]: check for check in checks}
    packages = three["packages of all nodes"]
    assert not packages["ok"]
    assert f"torch is {Version(version('torch')).public} on " in packages["note"]
    assert ", but 9.9 on " in packages["note"]
    store = three["/dev/shm of all nodes"]
    assert not store["ok"]
    assert f"keeps objects in {tmp_path}/store" in store["note"]
    assert "--shm-size" in store["note"]
    gpus = {name: check for name, check in three.items() if name.startswith("GPUs of node ")}
    assert sorted(check["ok"] for check in gpus.values()) == [False, True]
    (failed,) = (check["note"] for check in gpus.values() if not check["ok"])
    assert "Ray counts GPUs on node" in failed
    assert "--gpus all" in failed
