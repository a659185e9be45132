"""Resources of the cluster: CPUs, GPUs, nodes, and waiting for them."""

import logging
import os
import time
from typing import Literal

import ray
from ray.autoscaler.sdk import request_resources

from lbae.errors import UserError

_logger = logging.getLogger(__name__)

_POLL_S = 0.5

_ACTORS_A_GPU = 4  # a GPU runs the network faster than one CPU decodes or compresses image files


def cluster_cpus() -> int:
    """Whole CPUs of the cluster as Ray counts them, at least 1."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def nodes() -> list[dict[str, float]]:
    """Resources of every node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def node_cpus(gpus: int = 0) -> int:
    """Whole CPUs of the largest node with as many GPUs or more, at least 1."""
    return max([1, *(int(node.get("CPU", 0)) for node in nodes() if node.get("GPU", 0) >= gpus)])


def network_cpus() -> int:
    """Whole CPUs of the nodes that have GPUs, if any has, else of all: of those on which actors run a
    network.
    """
    with_gpus = [node for node in nodes() if node.get("GPU", 0)]
    return max(1, sum(int(node.get("CPU", 0)) for node in with_gpus or nodes()))


def own_cpus() -> int:
    """Whole CPUs of this process's node as Ray counts them, which a container's quota bounds, if it may run
    on as many.
    """
    here = ray.get_runtime_context().get_node_id()
    counted = next(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["NodeID"] == here)
    return max(1, min(int(counted), len(os.sched_getaffinity(0))))


def cluster_gpus() -> int:
    """GPUs of the cluster as Ray counts them."""
    return int(ray.cluster_resources().get("GPU", 0))


def wait_for(count: int, resource: Literal["CPU", "GPU"], remedy: str) -> None:
    """Wait until the cluster has ``count`` CPUs or GPUs, which its autoscaler, if it has one, is asked for.

    It waits as long as Ray Train does for its workers: RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S, by default a
    minute; then UserError with the ``remedy``.
    """

    def found() -> int:
        return int(ray.cluster_resources().get(resource, 0))

    if found() >= count:
        return
    patience = float(os.environ.get("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "60"))
    _logger.info(f"waiting up to {patience:g} s for {count} {resource}s; the cluster has {found()}")
    request_resources(bundles=[{resource: 1}] * count)
    deadline = time.monotonic() + patience
    while found() < count and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    request_resources(bundles=[])
    if found() < count:
        raise UserError(
            f"{count} {resource}s are needed; the cluster has {found()} after {patience:g} s: {remedy}"
        )


def wait_for_gpus(count: int) -> None:
    """:func:`wait_for` the GPUs that a job's ``gpus`` ask for. UserError for fewer than 1."""
    if count < 1:
        raise UserError(f"gpus is {count}; allowed: 1 or more, or leave it out")
    wait_for(count, "GPU", "start nodes that have them, or leave --gpus out to take what there is")


def actor_pool(cpus: int, gpus: int) -> tuple[int, float]:
    """How many actors of one CPU run a network over files, and each one's share of a GPU.

    They may take every CPU: what they work on is handed out by the driver, so no task waits for a CPU that
    they hold.
    """
    if not gpus:
        return cpus, 0
    sharing = max(1, min(_ACTORS_A_GPU, cpus // gpus))
    return gpus * sharing, 1 / sharing


def network_device() -> tuple[str, float]:
    """Kind of device on which actors and tasks run a network, and each one's share of a GPU."""
    share = actor_pool(network_cpus(), cluster_gpus())[1]
    return "cuda" if share else "cpu", share


def cluster_nodes() -> int:
    """Nodes of the cluster that are alive."""
    return len(nodes())
