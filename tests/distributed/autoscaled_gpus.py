"""Run by test_requests: wait for a GPU on a cluster whose autoscaler starts nodes on this machine.

``python -m tests.distributed.autoscaled_gpus v1|v2`` prints one line of JSON. A second waiter asks for more
GPUs than the autoscaler may start.
"""

import json
import os
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import ray
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray.cluster_utils import Cluster
from ray.util import placement_group_table

from lbae.distributed.cluster.resources import cluster_gpus, wait_for, wait_for_gpus
from lbae.errors import UserError

_TOO_MANY = 9


def autoscaling_config(folder: str, address: str) -> str:
    """The file that describes the cluster: a head without GPUs, and at most one worker, which has a GPU."""
    nodes = {
        "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
        "gpu": {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 1},
    }
    provider = {"type": "fake_multinode", "gcs_address": address, "head_node_id": FAKE_HEAD_NODE_ID}
    config = {
        "cluster_name": "test",
        "max_workers": 2,
        "idle_timeout_minutes": 10,
        "provider": {**provider, "launch_multiple": True},
        "available_node_types": nodes,
        "head_node_type": "ray.head.default",
    }
    file = Path(folder, "cluster.yaml")
    file.write_text(json.dumps(config))
    return str(file)


def pending() -> list[int]:
    """Bundles of every pending placement group."""
    groups = placement_group_table().values()
    return sorted(len(group["bundles"]) for group in groups if group["state"] == "PENDING")


def measure() -> dict[str, object]:
    """Two waiters side by side: one gets its GPU, the other ends with an error."""
    facts: dict[str, object] = {"before": cluster_gpus()}

    def ask_for_too_many() -> None:
        try:
            wait_for(_TOO_MANY, "GPU", "start more")
        except UserError as error:
            facts["error"] = str(error)

    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "240"
    other = threading.Thread(target=ask_for_too_many, daemon=True)
    other.start()
    while not pending():
        time.sleep(0.1)
    started = time.monotonic()
    wait_for_gpus(1)
    facts |= {"after": cluster_gpus(), "seconds": round(time.monotonic() - started, 1)}
    facts["left"] = pending()
    return facts


def main(version: str) -> None:
    """Start the cluster, measure, and stop it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    identity = {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID}
    if version == "v2":
        os.environ |= {"RAY_enable_autoscaler_v2": "1"}
        identity["RAY_CLOUD_INSTANCE_ID"] = FAKE_HEAD_NODE_ID
    with tempfile.TemporaryDirectory() as folder:
        config = autoscaling_config(folder, f"{ray.util.get_node_ip_address()}:{port}")
        head = {"num_cpus": 1, "object_store_memory": 2**28, "include_dashboard": False}
        cluster = Cluster(
            initialize_head=True,
            head_node_args={
                **head,
                "gcs_server_port": port,
                "autoscaling_config": config,
                "env_vars": identity,
            },
        )
        try:
            ray.init(address=cluster.address, log_to_driver=False)
            print(json.dumps(measure()), flush=True)
        finally:
            started = psutil.Process().children(recursive=True)  # the autoscaler's nodes too
            ray.shutdown()
            cluster.shutdown()
            for process in started:
                if process.is_running():
                    process.kill()


if __name__ == "__main__":
    main(sys.argv[1])
