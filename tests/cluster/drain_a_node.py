"""Run by test_kubernetes: run a shell command on a node that works, and print which nodes are then draining.

``python -m tests.cluster.drain_a_node COMMAND`` prints {node: seconds until its deadline} as JSON.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import ray
from ray._private.state import state
from ray.cluster_utils import Cluster


@ray.remote(num_cpus=1)
class Work:
    """A node without work would end as soon as it drains."""

    def ready(self) -> None:
        pass


def main(command: str) -> None:
    options = {"num_cpus": 1, "object_store_memory": 2**28, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=options)
    ray.init(address=cluster.address, log_to_driver=False)
    work = Work.remote()
    ray.get(work.ready.remote())
    # As in a container of KubeRay.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "RAY_ADDRESS": cluster.address, "PATH": path}
    subprocess.run(["bash", "-c", command], env=environment, check=True)
    draining = state.get_draining_nodes()
    print(json.dumps({node: deadline / 1000 - time.time() for node, deadline in draining.items()}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
