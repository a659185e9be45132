"""Run by test_encode: encoding on a cluster of two nodes, one of which dies in the middle when asked.

``python -m tests.distributed.encode_on_two_nodes MODEL DATA OUT VICTIM``, the victim being node or none.
"""

import json
import sys
import threading
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from lbae.distributed.encode import encode


def main(model: str, data: str, out: str, victim: str) -> None:
    """Start the nodes, encode, and let the second die once a few shards are there."""
    options = {"num_cpus": 1, "object_store_memory": 2**28}
    cluster = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    second = cluster.add_node(**options)
    ray.init(address=cluster.address, log_to_driver=False)

    def kill() -> None:
        while len(list(Path(out, "_work").glob("latents-*"))) < 4:
            time.sleep(0.02)
        cluster.remove_node(second, allow_graceful=False)

    thread = threading.Thread(target=kill, daemon=True)
    if victim == "node":
        thread.start()
    result = encode(model=model, data=data, out=out, max_bad_fraction=0.02)
    print(f"images by node: {result['images_by_node']}")
    print(json.dumps({**result, "killed": victim == "node" and not thread.is_alive()}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
