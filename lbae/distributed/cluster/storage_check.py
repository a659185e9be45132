"""Check before work starts that every node reaches the storage that this process reaches."""

import posixpath
import uuid
from collections.abc import Iterable

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lbae.distributed.cluster.failures import root_cause
from lbae.errors import LbaeError
from lbae.io.storage.location import absolute, resolve, usable_output

_TIMEOUT_S = 120.0
_REMEDY = (
    "all nodes need the same storage (s3://..., or a folder that they share), and its keys and endpoint"
    " in their environment"
)
_checked: set[tuple[str, str, str]] = set()  # (node, "read" or "write", URI) that passed


def check_storage(reads: Iterable[str | None], writes: Iterable[str]) -> None:
    """Check that every node reads ``reads`` and shares the folders of ``writes``; LbaeError names the node.

    A cluster of one node needs no check, and what a node passed once is not checked again.
    """
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if len(nodes) == 1:
        return
    inputs = {absolute(uri) for uri in reads if uri}
    folders = {posixpath.dirname(absolute(uri)) for uri in writes}
    wanted = {("read", uri) for uri in inputs} | {("write", folder) for folder in folders}
    unchecked = [node for node in nodes if {(node, *one) for one in wanted} - _checked]
    if not unchecked:
        return
    token = f"lbae-probe-{uuid.uuid4().hex}"
    try:
        for folder in folders:
            with usable_output(resolve(folder)):
                (resolve(folder) / token).create(b"")
        checks = {_check_on(node).remote(inputs, folders, token): node for node in unchecked}
        done, late = ray.wait(list(checks), num_returns=len(checks), timeout=_TIMEOUT_S)
        for task in done + late:
            node = checks[task]
            problem = _problem_of(task, node) if task in done else f"did not answer in {_TIMEOUT_S:g} s"
            if problem is None:
                continue
            for folder in folders:
                if not problem and not (resolve(folder) / f"{token}-{node}").exists():
                    problem = f"writes elsewhere than this process when it writes to {folder}"
            if problem:
                raise LbaeError(f"node {nodes[node]} {problem}; {_REMEDY}")
            _checked.update((node, *one) for one in wanted)
    finally:
        for folder in folders:
            for name in (token, *(f"{token}-{node}" for node in unchecked)):
                (resolve(folder) / name).remove()


def _problem_of(task: ray.ObjectRef, node: str) -> str | None:
    """What a node does not reach, or an empty string; None when it died, whose work Ray gives to others."""
    try:
        problem: str = ray.get(task)
    except RayError as error:
        alive = any(one["NodeID"] == node and one["Alive"] for one in ray.nodes())
        return f"cannot run this package: {root_cause(error)}" if alive else None
    return problem


def _check_on(node: str) -> ray.remote_function.RemoteFunction:
    @ray.remote(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
    def check(inputs: set[str], folders: set[str], token: str) -> str:
        uri = ""
        try:
            for uri in sorted(inputs):
                location = resolve(uri)
                location.fs.info(location.path)  # exists() would say no where s3fs cannot connect
            for uri in sorted(folders):
                (resolve(uri) / token).read_bytes()
                (resolve(uri) / f"{token}-{node}").write_bytes(b"")
        except FileNotFoundError:
            return f"does not reach {uri}: it is not there"
        except Exception as error:  # the libraries behind a filesystem share no base class
            return f"does not reach {uri}: {error}"
        return ""

    return check
