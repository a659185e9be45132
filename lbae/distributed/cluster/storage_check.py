"""Storage that this process reaches and another node does not, found by a task on every node before work
starts.
"""

import posixpath
import uuid
from collections.abc import Iterable

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lbae.distributed.cluster.failures import root_cause
from lbae.errors import LbaeError
from lbae.io.storage.location import absolute, resolve

_PATIENCE_S = 120.0
_MEND = (
    "all nodes need the same storage (s3://..., or a folder that they share), and its keys and endpoint"
    " in their environment"
)
_proven: set[tuple[str, str, str]] = set()  # nodes with what they were seen to read, or to write to


def check_storage(reads: Iterable[str | None], writes: Iterable[str]) -> None:
    """See that every node reads ``reads`` and shares the folders around ``writes``; those not given count as
    reached.

    Nothing happens on one node, nor for what a node was seen to reach before. LbaeError names the node and
    the URI.
    """
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if len(nodes) == 1:
        return
    inputs = {absolute(uri) for uri in reads if uri}
    folders = {posixpath.dirname(absolute(uri)) for uri in writes}
    wanted = {("read", uri) for uri in inputs} | {("write", folder) for folder in folders}
    unknown = [node for node in nodes if {(node, *one) for one in wanted} - _proven]
    if not unknown:
        return
    token = f"lbae-probe-{uuid.uuid4().hex}"
    try:
        for folder in folders:
            (resolve(folder) / token).create(b"")
        asked = {_look_on(node).remote(inputs, folders, token): node for node in unknown}
        done, late = ray.wait(list(asked), num_returns=len(asked), timeout=_PATIENCE_S)
        for task in done + late:
            node = asked[task]
            problem = _answer(task, node) if task in done else f"did not answer in {_PATIENCE_S:g} s"
            if problem is None:
                continue
            for folder in folders:
                if not problem and not (resolve(folder) / f"{token}-{node}").exists():
                    problem = f"writes elsewhere than this process when it writes to {folder}"
            if problem:
                raise LbaeError(f"node {nodes[node]} {problem}; {_MEND}")
            _proven.update((node, *one) for one in wanted)
    finally:
        for folder in folders:
            for name in (token, *(f"{token}-{node}" for node in unknown)):
                (resolve(folder) / name).remove()


def _answer(task: ray.ObjectRef, node: str) -> str | None:
    """What a node has to complain of, perhaps nothing; None of one that has died, whose work Ray gives to
    others.
    """
    try:
        answer: str = ray.get(task)
    except RayError as error:
        alive = any(one["NodeID"] == node and one["Alive"] for one in ray.nodes())
        return f"cannot run this package: {root_cause(error)}" if alive else None
    return answer


def _look_on(node: str) -> ray.remote_function.RemoteFunction:
    @ray.remote(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
    def look(inputs: set[str], folders: set[str], token: str) -> str:
        uri = ""
        try:
            for uri in sorted(inputs):
                place = resolve(uri)
                place.fs.info(place.path)  # exists() would say no where s3fs cannot connect
            for uri in sorted(folders):
                (resolve(uri) / token).read_bytes()
                (resolve(uri) / f"{token}-{node}").write_bytes(b"")
        except FileNotFoundError:
            return f"does not reach {uri}: it is not there"
        except Exception as error:  # whatever the libraries behind a filesystem raise
            return f"does not reach {uri}: {error}"
        return ""

    return look
