"""Run by test_storage_check: check storages on two nodes, some of which the second node cannot reach.

``python -m tests.distributed.probe_two_nodes FOLDER``. The driver and the first node can reach s3://bucket.
At the end a third node joins, which has another torch.
"""

import json
import sys
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from lbae.distributed.cluster import storage_check as probe
from lbae.errors import LbaeError
from lbae.io.storage.location import resolve


def _with_another_torch(folder: str) -> str:
    """A folder for PYTHONPATH whose metadata says that torch 1.0 is installed."""
    metadata = Path(folder, "data", "torch-1.0.dist-info", "METADATA")
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.0\n")
    return str(Path(folder, "data"))


def main(folder: str) -> None:
    """Start the nodes, run the checks, and print their results as JSON."""
    one = {"num_cpus": 1, "object_store_memory": 2**28}
    cluster = Cluster(initialize_head=True, head_node_args={**one, "include_dashboard": False})
    # Nothing answers at port 9, as on a node whose environment lacks the endpoint.
    cluster.add_node(**one, env_vars={"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"})
    ray.init(address=cluster.address, log_to_driver=False)
    Path(folder, "data").mkdir()
    resolve("s3://bucket/file").write_bytes(b"content")
    said = {}
    for name, reads, writes in (
        ("shared", [f"{folder}/data", None], [f"{folder}/out"]),
        ("again", [], [f"{folder}/other"]),
        ("bucket written", [], ["s3://bucket/out"]),
        ("bucket read", ["s3://bucket/file"], []),
        ("not there", [f"{folder}/nothing"], []),
    ):
        asked = len(probe._checked)
        try:
            probe.check_storage(reads, writes)
            said[name] = f"{len(probe._checked) - asked} new"
        except LbaeError as error:
            said[name] = str(error)
    cluster.add_node(**one, env_vars={"PYTHONPATH": _with_another_torch(folder)})
    try:
        probe.check_storage([f"{folder}/data"], [])
    except LbaeError as error:
        said["another image"] = str(error)
    print(json.dumps(said))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
