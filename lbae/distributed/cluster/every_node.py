"""Call a function on nodes of the cluster, and tell nodes that fail from those that died."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lbae.distributed.cluster.failures import root_cause
from lbae.errors import UnforeseenError

ANSWER_S = 120.0


def call_on_nodes(
    function: Callable[..., Any], nodes: Mapping[str, float], *arguments: Any
) -> Iterator[tuple[str, Any, str]]:
    """Yield (node, result, problem) per node: what the function returned, and "" or why it did not.

    Nodes that died meanwhile are left out, because Ray reruns their work elsewhere.

    Args:
        function: of this package or its libraries. A node is called with its id and ``arguments``.
        nodes: GPUs that the call takes, by id of the node. It takes no CPU.
    """
    task, calls = ray.remote(function), {}
    for node, gpus in nodes.items():
        here = NodeAffinitySchedulingStrategy(node, soft=False)
        options = {"num_cpus": 0, "num_gpus": gpus, "scheduling_strategy": here}
        calls[task.options(**options).remote(node, *arguments)] = node
    done, late = ray.wait(list(calls), num_returns=len(calls), timeout=ANSWER_S)
    for call in done:
        try:
            yield calls[call], ray.get(call), ""
        except RayError as error:
            if any(one["NodeID"] == calls[call] and one["Alive"] for one in ray.nodes()):
                cause = root_cause(error)
                unforeseen = isinstance(cause, UnforeseenError)
                yield calls[call], None, f"cannot run this package: {cause}" if unforeseen else str(cause)
    for call in late:
        ray.cancel(call, force=True)
        yield calls[call], None, f"did not answer in {ANSWER_S:g} s"
