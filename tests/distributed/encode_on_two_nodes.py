"""Run by test_encode: encode on two nodes, then encode again while one of them is killed.

``python -m tests.distributed.encode_on_two_nodes MODEL DATA SHARED LOST`` writes the latent tables SHARED,
undisturbed, and LOST, during which the node is killed.
"""

import json
import sys
import threading
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from lbae.jobs.build.encode import encode
from tests.small_parts import cut_small


def main(model: str, data: str, shared: str, lost: str) -> None:
    """Start the nodes and encode twice; the second time, kill a node once a few parts are written."""
    cut_small()
    options = {"num_cpus": 1, "object_store_memory": 2**28}
    cluster = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    second = cluster.add_node(**options)
    ray.init(address=cluster.address, log_to_driver=False)
    undisturbed = encode(model=model, data=data, out=shared, max_bad_fraction=0.02)

    def kill() -> None:
        while len(list(Path(lost, "data").glob("part-*"))) < 4:
            time.sleep(0.02)
        cluster.remove_node(second, allow_graceful=False)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    encode(model=model, data=data, out=lost, max_bad_fraction=0.02)
    print(json.dumps({"images_by_node": undisturbed["images_by_node"], "killed": not thread.is_alive()}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
