"""Run by test_evaluation: evaluate on two nodes, one of which is killed while both extract features.

``python -m tests.distributed.evaluate_on_two_nodes OPTIONS``, the job's options as JSON.
"""

import json
import sys
import threading
import time
from contextlib import suppress

import psutil
import ray
from ray.cluster_utils import Cluster

from lbae.jobs.build.evaluate import evaluate


def extracting() -> set[int]:
    """Process ids of the workers that run a function of the extractor."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "ray::_call" in " ".join(process.cmdline()):
                found.add(process.pid)
    return found


def main(options: str) -> None:
    """Start the nodes, evaluate, and kill the second node as soon as both have extracted features."""
    one = {"num_cpus": 1, "object_store_memory": 2**29}
    cluster = Cluster(initialize_head=True, head_node_args={**one, "include_dashboard": False})
    second = cluster.add_node(**one)
    ray.init(address=cluster.address, log_to_driver=False)
    killed = threading.Event()

    def kill() -> None:
        seen: set[int] = set()
        while len(seen) < 2:
            seen |= extracting()
            time.sleep(0.1)
        cluster.remove_node(second, allow_graceful=False)
        killed.set()

    threading.Thread(target=kill, daemon=True).start()
    evaluate(**json.loads(options))
    print(json.dumps({"killed": killed.is_set()}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
