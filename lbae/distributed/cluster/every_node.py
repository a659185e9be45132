"""Call a function on nodes of the cluster, and tell nodes on which it fails from those that died."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lbae.distributed.cluster.failures import root_cause
from lbae.errors import UnforeseenError

SAME_IMAGE = (
    "all nodes need the same code and packages: start them from one image, and submit with --working-dir"
)
_ANSWER_S = 120.0


def call_on_nodes(
    function: Callable[..., Any], nodes: Mapping[str, float], *arguments: Any
) -> Iterator[tuple[str, Any, str]]:
    """Yield (node, result, problem) per node: what the function returned, and "" or why it did not.

    Nodes that died meanwhile are left out, because Ray reruns their work elsewhere.

    Args:
        function: called with the id of its node and ``arguments``.
        nodes: the GPUs that each call takes, by id of the node. Calls take no CPU.
    """
    task, calls = ray.remote(function), {}
    for node, gpus in nodes.items():
        here = NodeAffinitySchedulingStrategy(node, soft=False)
        options = {"num_cpus": 0, "num_gpus": gpus, "scheduling_strategy": here}
        calls[task.options(**options).remote(node, *arguments)] = node
    done, late = ray.wait(list(calls), num_returns=len(calls), timeout=_ANSWER_S)
    for call in done:
        try:
            yield calls[call], ray.get(call), ""
        except RayError as error:
            if any(one["NodeID"] == calls[call] and one["Alive"] for one in ray.nodes()):
                yield calls[call], None, _text(error)
    for call in late:
        ray.cancel(call, force=True)
        yield calls[call], None, f"did not answer in {_ANSWER_S:g} s"


def _text(error: RayError) -> str:
    cause = root_cause(error)
    return (
        f"cannot run this package: {cause}; {SAME_IMAGE}"
        if isinstance(cause, UnforeseenError)
        else f"{cause}"
    )
