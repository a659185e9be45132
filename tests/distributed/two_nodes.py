"""Run by test_faults: sums of a latent table on a cluster of two nodes, one of which dies in the middle.

``python -m tests.distributed.two_nodes LATENTS OUT TASKS VICTIM``, the victim being node or worker; OUT is .npy.
"""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import ray
from ray.cluster_utils import Cluster

from lbae.distributed.scan import scan
from lbae.distributed.sums import moment_sums_of
from lbae.io.latent_table import open_latent_table


def main(latents: str, out: str, tasks: int, victim: str) -> None:
    """Start the nodes, add up, and let the victim die when the first partials are there."""
    options = {"num_cpus": 1, "object_store_memory": 2**28}
    cluster = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    second = cluster.add_node(**options)
    ray.init(address=cluster.address, log_to_driver=False)
    table = open_latent_table(latents)
    killed: list[str] = []

    def on_rows(rows: int) -> None:
        if killed or not 0 < rows < table.manifest.rows:
            return
        if victim == "node":
            killed.append(second.node_id)
            cluster.remove_node(second, allow_graceful=False)
        else:
            titles = {int(path.parent.name): path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")}
            for pid in [pid for pid, title in titles.items() if title.startswith(b"ray::_partial")][:1]:
                os.kill(pid, signal.SIGKILL)  # when none is at work just now, the next report gives another chance
                killed.append(str(pid))

    sums, spent = moment_sums_of(table, scan(table, []).groups, (), tasks, on_rows)
    np.save(out, sums.sums)
    print(json.dumps({"killed": killed, **spent.facts()}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
