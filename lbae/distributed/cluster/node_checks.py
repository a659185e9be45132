"""Check every node: the same packages, an object store in shared memory, and GPUs that compute."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray

from lbae.distributed.cluster.device import PRETEND_GPUS, checked_device, device_type
from lbae.distributed.cluster.every_node import call_on_nodes
from lbae.distributed.cluster.ray_private import object_store_folder
from lbae.errors import LbaeError
from lbae.io.machine_facts import Check, image_facts

_SHARED_MEMORY = "/dev/shm"


def check_nodes() -> Iterator[Check]:
    """Yield the checks of all nodes together, and one check per node with GPUs."""
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    names = {node: f"{facts['NodeManagerAddress']} ({node[:6]})" for node, facts in nodes.items()}
    found, problems = {}, []
    for node, facts, problem in call_on_nodes(node_facts, dict.fromkeys(nodes, 0)):
        if problem:
            problems.append(f"node {names[node]} {problem}")
        else:
            found[names[node]] = facts
    yield _packages({name: facts["packages"] for name, facts in found.items()}, problems)
    yield _stores({name: facts["store"] for name, facts in found.items()})
    gpus = {node: facts["Resources"].get("GPU", 0) for node, facts in nodes.items()}
    asked = {node: count for node, count in gpus.items() if count}
    for node, note, problem in call_on_nodes(gpu_facts, asked) if asked else ():
        late = "; other jobs may hold its GPUs" if "did not answer" in problem else ""
        yield Check(name=f"GPUs of node {names[node]}", ok=not problem, note=note or f"{problem}{late}")


def node_facts(node: str) -> dict[str, Any]:
    """The packages of the node on which this runs, and the folder of its object store."""
    return {"packages": image_facts(), "store": object_store_folder()}


def gpu_facts(node: str) -> str:
    """The names and the driver of the GPUs that Ray gives to this task, after each has multiplied matrices.

    Raises:
        LbaeError: torch finds fewer GPUs than Ray counts, or a GPU computes a wrong result.
    """
    import torch  # imported here: other checks do not need it, and it takes seconds

    wanted = len(ray.get_gpu_ids())
    if device_type(wanted) == "cpu":
        return f"{wanted} pretended ({PRETEND_GPUS}=1): torch computes on CPUs"
    checked_device("cuda")
    if (count := torch.cuda.device_count()) < wanted:
        raise LbaeError(f"Ray counts {wanted} GPUs, and torch finds {count}")
    for index in range(wanted):
        ones = torch.ones(256, 256, device=f"cuda:{index}")
        if not bool(((ones @ ones) == 256).all()):
            raise LbaeError(f"GPU {index} multiplies matrices wrongly; replace the node")
    kinds = sorted({torch.cuda.get_device_name(index) for index in range(wanted)})
    return f"{wanted} x {', '.join(kinds)}, driver {_driver()}, CUDA {torch.version.cuda}: each computes"


def _driver() -> str:
    path = Path("/proc/driver/nvidia/version")  # "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54 ..."
    words = path.read_text().splitlines()[0].split() if path.exists() else []
    return next((word for word in words if word[0].isdigit()), "unknown")


def _packages(nodes: Mapping[str, Mapping[str, str]], problems: list[str]) -> Check:
    """Whether all nodes have the same packages, as nodes of one image have."""
    name = "packages of all nodes"
    if problems:
        return Check(name=name, ok=False, note="; ".join(problems))
    differing = []
    for package in sorted({package for facts in nodes.values() for package in facts}):
        having = defaultdict(list)
        for node, facts in nodes.items():
            having[facts.get(package, "missing")].append(node)
        if len(having) > 1:
            versions = (f"{version} on {', '.join(where)}" for version, where in having.items())
            differing.append(f"{package} is {', but '.join(versions)}")
    if not differing:
        return Check(name=name, ok=True, note=f"{len(nodes)} nodes, all alike")
    return Check(name=name, ok=False, note=f"{'; '.join(differing)}: start all nodes from one image")


def _stores(nodes: Mapping[str, str]) -> Check:
    """Whether objects lie in memory on all nodes; Ray uses a disk where /dev/shm is too small."""
    name = f"{_SHARED_MEMORY} of all nodes"
    slow = [
        f"node {node} keeps objects in {folder}" for node, folder in nodes.items() if folder != _SHARED_MEMORY
    ]
    if not slow:
        return Check(name=name, ok=True, note=f"{len(nodes)} nodes keep their objects there")
    mend = (
        "give its container a /dev/shm of more than 30 % of its memory (`--shm-size`), and restart Ray there"
    )
    return Check(name=name, ok=False, note=f"{'; '.join(slow)}, which is slow: {mend}")
