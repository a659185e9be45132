"""The fused and the split topology side by side on two nodes, each with a core of its own.

With ``gpus``, the first node has the pretended GPUs: there the fused service runs as a whole, the split one
only its codec. A small network stands for one that a GPU computes, the preset's for one on CPUs.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import ray
from ray import serve
from ray.cluster_utils import Cluster

from lbae.distributed.cluster.device import PRETEND_GPUS
from lbae.distributed.serve.application import application, planned
from lbae.distributed.serve.haproxy import controller_options
from lbae.distributed.serve.service_plan import Scaling
from lbae.distributed.serve.split_topology import INGRESS, ROLES
from lbae.web.limits import DEFAULT_LIMITS
from tests.benchmarks.conftest import ROUNDS, untrained

PORT, N, CONCURRENCY, REQUESTS = 18130, 16, 16, 96
NETWORKS = {"small": (4, 4, 4), "mnist": (64, 128, 256)}


@contextmanager
def two_nodes(gpus: bool) -> Iterator[None]:
    """Ray on two nodes with a core each; the first has two GPUs that do not exist, one per service."""
    cores = sorted(os.sched_getaffinity(0))
    options = {"object_store_memory": 2**28}
    try:
        os.sched_setaffinity(0, cores[1:2])
        cluster = Cluster(
            initialize_head=True, head_node_args={**options, "num_cpus": 16, "include_dashboard": False}
        )
        os.sched_setaffinity(0, cores[:1])
        cluster.add_node(**options, **({"num_cpus": 2, "num_gpus": 2} if gpus else {"num_cpus": 16}))
    finally:
        os.sched_setaffinity(0, cores)
    ray.init(address=cluster.address, log_to_driver=False)
    yield
    serve.shutdown()
    ray.shutdown()
    cluster.shutdown()


def scaling(gpus: bool) -> dict[str, dict[str, Any]]:
    """Options of both services. The split one's other deployments do not fit on the node with the GPUs."""
    count = {"gpus": 1, "replicas": 1} if gpus else {"replicas": 2}
    own = {name: {"cpus": 3 if gpus and not role.runs_network else 1} for name, role in ROLES.items()}
    return {
        "fused": {**count, "deployments": {INGRESS: {"cpus": 1}}},
        "split": {**count, "deployments": own},
    }


def images_per_second(topology: str, count: int) -> float:
    url = f"http://127.0.0.1:{PORT}/{topology}/v1/sample"
    command = [sys.executable, "-m", "tests.benchmarks.load", url, *map(str, (CONCURRENCY, N, count))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return json.loads(done.stdout)["images_per_second"]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("gpus", [True, False], ids=["gpus", "cpus"])
def test_fused_and_split_on_two_nodes(tmp_path, monkeypatch, gpus, network):
    monkeypatch.setenv(PRETEND_GPUS, "1")
    bundle = untrained(tmp_path, "mnist", channels=NETWORKS[network])["bundle"]
    ray.shutdown()  # of the jobs that made the bundle
    with two_nodes(gpus):
        serve.start(
            http_options={"host": "127.0.0.1", "port": PORT},
            controller_options=controller_options("127.0.0.1"),
        )
        for topology, options in scaling(gpus).items():
            uri, plan = planned(bundle, False, Scaling(topology=topology, **options), DEFAULT_LIMITS)
            serve.run(application(uri, plan), name=topology, route_prefix=f"/{topology}")
        for topology in scaling(gpus):
            images_per_second(topology, CONCURRENCY)
        pairs = [
            [images_per_second(topology, REQUESTS) for topology in ("split", "fused")] for _ in range(ROUNDS)
        ]
    ratios = [split / fused for split, fused in pairs]
    print(
        f"\n{network} network, {'a pretended GPU on one node' if gpus else 'CPUs only'}: split makes"
        f" {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) times the images per"
        f" second of fused ({statistics.median(fused for _, fused in pairs):.0f})"
    )
