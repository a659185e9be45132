"""Check before work starts that every node has the code and the storage of this process."""

import posixpath
import uuid
from collections.abc import Iterable

import ray

from lbae.distributed.cluster.every_node import SAME_IMAGE, call_on_nodes
from lbae.errors import LbaeError
from lbae.io.machine_facts import image_differences, image_facts
from lbae.io.storage.location import absolute, resolve, usable_output

_LATE = ": it may have no CPU time left, or its storage hangs"
_SAME_STORAGE = (
    "all nodes need the same storage (s3://... or a shared folder), with its keys and endpoint in their"
    " environment"
)
_checked: set[tuple[str, str, str]] = set()  # (node, "read" or "write", URI) of passed checks


def check_storage(reads: Iterable[str | None], writes: Iterable[str]) -> None:
    """Check that every node can read ``reads``, and shares the code and the parent folders of ``writes``.

    A cluster of one node needs no check, nor does a process without Ray. Checks that a node passed are not
    repeated.

    Raises:
        LbaeError: A node failed a check or did not answer in time; the message names the node.
    """
    if not ray.is_initialized():
        return
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
        checks = call_on_nodes(
            _check_here, dict.fromkeys(unchecked, 0), inputs, folders, token, image_facts()
        )
        for node, found, failure in checks:
            problem = f"{failure}{_LATE}" if "did not answer" in failure else failure or found
            for folder in folders:
                if not problem and not (resolve(folder) / f"{token}-{node}").exists():
                    problem = (
                        f"does not share {folder}: this process does not see a file written there;"
                        f" {_SAME_STORAGE}"
                    )
            if problem:
                raise LbaeError(f"node {nodes[node]} {problem}")
            _checked.update((node, *one) for one in wanted)
    finally:
        for folder in folders:
            for name in (token, *(f"{token}-{node}" for node in unchecked)):
                (resolve(folder) / name).remove()


def _check_here(node: str, inputs: set[str], folders: set[str], token: str, image: dict[str, str]) -> str:
    """What is wrong with this node; "" if nothing."""
    if different := image_differences(image):
        return f"has {', '.join(different)}; {SAME_IMAGE}"
    uri = ""
    try:
        for uri in sorted(inputs):
            location = resolve(uri)
            location.fs.info(location.path)  # exists() returns False if s3fs cannot connect
        for uri in sorted(folders):
            (resolve(uri) / token).read_bytes()
            (resolve(uri) / f"{token}-{node}").write_bytes(b"")
    except FileNotFoundError:
        return f"cannot reach {uri}: it does not exist there; {_SAME_STORAGE}"
    except Exception as error:  # filesystem libraries share no base class of errors
        return f"cannot reach {uri}: {error}; {_SAME_STORAGE}"
    return ""
