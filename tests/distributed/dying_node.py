"""Run by test_train: train on two nodes, one of which is killed after the first checkpoint.

Another node replaces it, unless the options set ``min_workers``.

``python -m tests.distributed.dying_node DATA OUT OPTIONS``, the options as JSON.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from lbae.jobs.build.train import train
from tests.distributed.test_train import checkpoints


def main(data: str, out: str, options: str) -> None:
    """Start the nodes, train, kill the second node after a checkpoint, and replace it unless told not to."""
    one = {"num_cpus": 1, "object_store_memory": 2**28}
    cluster = Cluster(initialize_head=True, head_node_args={**one, "include_dashboard": False})
    second = cluster.add_node(**one)
    ray.init(address=cluster.address, log_to_driver=False)
    with ThreadPoolExecutor(1) as executor:  # nodes can only be started from the main thread
        training = executor.submit(train, data=data, out=f"{out}/m", **json.loads(options))
        while not checkpoints(Path(out, "m-checkpoints")) and not training.done():
            time.sleep(0.05)
        killed = not training.done()
        cluster.remove_node(second, allow_graceful=False)
        if "min_workers" not in json.loads(options):
            cluster.add_node(**one)
        history = training.result()["history"]
    print(json.dumps({"killed": killed, "history": history}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
