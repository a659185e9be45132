"""Run by test_evaluation: train a classifier on two nodes, the larger of which has no GPU.

``python -m tests.distributed.classify_on_two_nodes DATA``. The smaller node's GPU exists for
Ray only, so the classifier is trained on CPUs.
"""

import json
import os
import sys

import ray
from ray.cluster_utils import Cluster

from lbae.config import ModelConfig
from lbae.distributed.cluster.device import PRETEND_GPUS
from lbae.distributed.cluster.resources import node_cpus, torch_cpus
from lbae.distributed.evaluate.classifier_task import trained_classifier
from lbae.distributed.train.trainer import _workers_memory
from lbae.io.sources.plan import plan


def main(data: str) -> None:
    """Start the nodes and train."""
    os.environ[PRETEND_GPUS] = "1"
    options = {"object_store_memory": 2**28}
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 3, **options, "include_dashboard": False}
    )
    cluster.add_node(num_cpus=2, num_gpus=1, **options)
    ray.init(address=cluster.address, log_to_driver=False)
    trained = trained_classifier(plan(data), ModelConfig(image_size=32, padding=2, image_channels=1))
    cpus = [node_cpus(), node_cpus(1), torch_cpus()]
    (memory,) = (node["Resources"]["memory"] for node in ray.nodes() if "GPU" in node["Resources"])
    of_one_node = _workers_memory(1) == memory < _workers_memory(2) == ray.cluster_resources()["memory"]
    columns = [column for column, _ in trained.columns]
    print(json.dumps({"cpus": cpus, "columns": columns, "workers_memory_is_of_one_node": of_one_node}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
