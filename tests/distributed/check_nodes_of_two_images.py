"""Run by test_node_checks: check three nodes; one has other packages, a slow object store and no GPU.

``python -m tests.distributed.check_nodes_of_two_images FOLDER``. The GPUs of the first node are pretended.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from lbae.distributed.cluster.node_checks import check_nodes


def main(folder: str) -> None:
    """Start the nodes, and print the checks as JSON: of two nodes that are alike, then of all three."""
    one = {"num_cpus": 1, "num_gpus": 2, "object_store_memory": 2**28}
    cluster = Cluster(initialize_head=True, head_node_args={**one, "num_gpus": 0, "include_dashboard": False})
    cluster.add_node(**one, env_vars={"LBAE_PRETEND_GPUS": "1"})
    ray.init(address=cluster.address, log_to_driver=False)
    print(json.dumps([asdict(check) for check in check_nodes()]))
    package = Path(folder, "other", "torch-9.9.dist-info", "METADATA")
    package.parent.mkdir(parents=True)
    package.write_text("Metadata-Version: 2.1\nName: torch\nVersion: 9.9\n")
    Path(folder, "store").mkdir()
    path = ":".join(filter(None, [str(package.parent.parent), *sys.path]))
    cluster.add_node(**one, plasma_directory=f"{folder}/store", env_vars={"PYTHONPATH": path})
    print(json.dumps([asdict(check) for check in check_nodes()]))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
