"""Run by test_faults: sum a latent table twice on two nodes, while first a worker and then a node is killed.

``python -m tests.distributed.two_nodes LATENTS OUT TASKS`` prints one line of JSON per sum, and writes the
sums to OUT/worker.npy and OUT/node.npy.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import ray
from ray.cluster_utils import Cluster

from lbae.distributed.latent_table.sum_tasks import moment_sums_of
from lbae.distributed.latent_table.table_scan import scan
from lbae.io.artifacts.latent_table import open_latent_table


def main(latents: str, out: str, tasks: int) -> None:
    """Start the nodes and sum twice; each time kill the victim when the first partial sums are done."""
    options = {"num_cpus": 1, "object_store_memory": 2**28}
    cluster = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    second = cluster.add_node(**options)
    ray.init(address=cluster.address, log_to_driver=False)
    table = open_latent_table(latents)

    def kill_a_worker() -> bool:
        titles = {int(path.parent.name): path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")}
        pids = [pid for pid, title in titles.items() if title.startswith(b"ray::_sums_on_node")][:1]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return bool(pids)  # if no worker runs at the moment, the next report tries again

    def kill_a_node() -> bool:
        cluster.remove_node(second, allow_graceful=False)
        return True

    for victim, kill in (("worker", kill_a_worker), ("node", kill_a_node)):
        killed = False

        def on_rows(rows: int, kill: Callable[[], bool] = kill) -> None:
            nonlocal killed
            if not killed and 0 < rows < table.manifest.rows:
                killed = kill()

        sums, statistics = moment_sums_of(table, scan(table, []).row_groups, (), tasks, on_rows)
        np.save(f"{out}/{victim}.npy", sums.sums)
        print(json.dumps({"victim": victim, "killed": killed, **statistics.facts()}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
