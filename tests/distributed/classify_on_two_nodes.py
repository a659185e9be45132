"""Run by test_evaluation: a classifier is trained on a cluster whose larger node has no GPU.

``python -m tests.distributed.classify_on_two_nodes DATA``. The smaller node's GPU is one to Ray only: it is trained on CPUs.
"""

import json
import sys

import ray
from ray.cluster_utils import Cluster

from lbae.config import ModelConfig
from lbae.distributed.classifier import trained_classifier
from lbae.distributed.session import node_cpus
from lbae.io.plan import plan


def main(data: str) -> None:
    """Start the nodes and train."""
    memory = {"object_store_memory": 2**28}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, **memory, "include_dashboard": False})
    cluster.add_node(num_cpus=2, num_gpus=1, **memory)
    ray.init(address=cluster.address, log_to_driver=False)
    trained = trained_classifier(plan(data), ModelConfig(image_size=32, padding=2, image_channels=1))
    print(json.dumps({"cpus": [node_cpus(), node_cpus(1)], "columns": [column for column, _ in trained.columns]}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
