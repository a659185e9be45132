"""Run by test_lost_workers: train on two nodes, one of which announces its end, and leaves.

``python -m tests.distributed.preempted_node DATA OUT OPTIONS``, the options as JSON. The second node is
``ray start --block``, which gets SIGTERM inside the second epoch, as from Kubernetes, and which another node
replaces. All checkpoints are kept.
"""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from lbae.jobs.build.train import train
from tests.distributed.test_train import checkpoints

_NOTICE_S = "15"  # by default 30


def main(data: str, out: str, options: str) -> None:
    """Train undisturbed, then with a node that leaves."""
    one = {"num_cpus": 1, "object_store_memory": 2**28}
    cluster = Cluster(initialize_head=True, head_node_args={**one, "include_dashboard": False})
    start = [Path(sys.executable).parent / "ray", "start", "--block", f"--address={cluster.address}"]
    node = subprocess.Popen(
        [*start, "--num-cpus=1", f"--object-store-memory={2**28}"],
        env=os.environ | {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": _NOTICE_S},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    ray.init(address=cluster.address, log_to_driver=False)
    given = {"data": data, "keep": 100, **json.loads(options)}
    with ThreadPoolExecutor(1) as executor:  # nodes can only be started from the main thread
        whole = executor.submit(train, **given, out=f"{out}/whole").result()
        training = executor.submit(train, **given, out=f"{out}/m")
        while not checkpoints(Path(out, "m-checkpoints")) and not training.done():
            time.sleep(0.05)
        node.send_signal(signal.SIGTERM)
        announced = not training.done()
        node.wait(120)
        left = not training.done()
        cluster.add_node(**one)
        history = training.result()["history"]
    facts = {"announced": announced, "left": left, "whole": whole["history"], "history": history}
    print(json.dumps(facts))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
