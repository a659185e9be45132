"""The cluster's CPUs, GPUs and nodes, and waiting for them."""

import logging
import os
import time
from collections.abc import Callable
from typing import Literal

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from lbae.errors import UserError

_logger = logging.getLogger(__name__)

_POLL_S = 0.5


def cluster_cpus() -> int:
    """Whole CPUs of the cluster as Ray counts them, at least 1; 1 for a process without Ray."""
    return 1 if not ray.is_initialized() else max(1, int(ray.cluster_resources().get("CPU", 1)))


def nodes() -> list[dict[str, float]]:
    """Resources of every node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def node_cpus(gpus: int = 0) -> int:
    """Whole CPUs of the largest node that has at least ``gpus`` GPUs; at least 1."""
    return max([1, *(int(node.get("CPU", 0)) for node in nodes() if node.get("GPU", 0) >= gpus)])


def torch_cpus() -> int:
    """Whole CPUs of the nodes on which actors run a network: those with GPUs if there are any, else all."""
    with_gpus = [node for node in nodes() if node.get("GPU", 0)]
    return max(1, sum(int(node.get("CPU", 0)) for node in with_gpus or nodes()))


def own_cpus() -> int:
    """Whole CPUs that this process may use, at most as many as Ray counts on its node.

    Ray takes a container's CPU quota into account; the CPU affinity of the process may allow fewer cores.
    """
    here = ray.get_runtime_context().get_node_id()
    counted = next(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["NodeID"] == here)
    return max(1, min(int(counted), len(os.sched_getaffinity(0))))


def cluster_gpus() -> int:
    """GPUs of the cluster as Ray counts them."""
    return int(ray.cluster_resources().get("GPU", 0))


def start_timeout_s() -> float:
    """Ray Train's timeout for its workers, for which jobs wait for nodes: by default 60 seconds."""
    return float(os.environ.get("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "60"))


def wait_until(found: Callable[[], bool], bundles: list[dict[str, float]]) -> bool:
    """Ask the autoscaler for nodes with these resources, and wait until ``found``; False on timeout.

    The request is a placement group that stays pending. It is this job's own and ends with it.
    ``ray.autoscaler.sdk.request_resources`` would replace the requests of all other jobs: a cluster keeps one
    list, which Ray Data and Ray Train write as well. The timeout is :func:`start_timeout_s`.
    """
    if found():
        return True
    _logger.info(
        f"waiting up to {start_timeout_s():g} s for nodes; the cluster has {cluster_cpus()} CPUs and"
        f" {cluster_gpus()} GPUs"
    )
    request = placement_group(bundles)
    deadline = time.monotonic() + start_timeout_s()
    try:
        while not (came := found()) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
    finally:
        remove_placement_group(request)
    return came


def wait_for(count: int, resource: Literal["CPU", "GPU"], remedy: str) -> None:
    """Ask the autoscaler for ``count`` CPUs or GPUs, and wait until the cluster has them, free or not.

    Raises:
        UserError: The timeout passed. The message ends with ``remedy``.
    """

    def found() -> int:
        return int(ray.cluster_resources().get(resource, 0))

    timeout = start_timeout_s()
    if not wait_until(lambda: found() >= count, [{resource: 1}] * count):
        raise UserError(
            f"{count} {resource}s are needed; the cluster has {found()} after {timeout:g} s: {remedy}"
        )


def wait_for_gpus(count: int) -> None:
    """Wait for the ``count`` GPUs of a job's ``gpus``; UserError if it is below 1, or on timeout."""
    if count < 1:
        raise UserError(f"gpus is {count}; allowed: 1 or more, or omit it")
    wait_for(count, "GPU", "start nodes that have GPUs, or omit --gpus to use those of the cluster")


def cluster_nodes() -> int:
    """The number of nodes that are alive."""
    return len(nodes())
