"""Add up moment sums, first within each node, so that only one sum per node travels."""

import functools
import operator
from collections import defaultdict
from collections.abc import Sequence

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lbae.core.moments.moment_sums import MomentSums
from lbae.distributed.latent_table.task_statistics import TaskStatistics

_FAN_IN = 8

# What a task of the tree reports beside its sums: the node that holds the sums, and the task's statistics.
Report = tuple[str, TaskStatistics]


class ReductionTree:
    """The sum of partial moment sums; ``root`` refers to it once all partials are added.

    Each partial comes from a task with two results: moment sums, which stay on their node, and a
    :data:`Report`, which the caller waits for and hands to :meth:`completed`.
    """

    def __init__(
        self, index: int, sums_bytes: int, partials: Sequence[tuple[ray.ObjectRef, ray.ObjectRef]]
    ) -> None:
        self.index, self._sums_bytes = index, sums_bytes
        self.root: ray.ObjectRef | None = None
        # Keyed by report: the sums of a running task, and the nodes that hold its summands.
        self._running: dict[ray.ObjectRef, tuple[ray.ObjectRef, tuple[str, ...]]] = {
            report: (sums, ()) for sums, report in partials
        }
        self._held: dict[str, list[ray.ObjectRef]] = defaultdict(list)

    @property
    def running(self) -> list[ray.ObjectRef]:
        """Reports of the tasks that have not completed."""
        return list(self._running)

    def completed(self, report: ray.ObjectRef) -> TaskStatistics:
        """Record a completed task, start the merges that it makes possible, and return its statistics."""
        sums, sources = self._running.pop(report)
        node, statistics = ray.get(report)
        statistics.moved_bytes = self._sums_bytes * sum(source != node for source in sources)
        self._held[node].append(sums)
        for merge in self._next_merges():
            nodes, parts = zip(*merge, strict=True)
            here = NodeAffinitySchedulingStrategy(nodes[0], soft=True)
            merged, merge_report = _merge.options(scheduling_strategy=here).remote(*parts)
            self._running[merge_report] = merged, nodes
        if not self._running:
            (root_node,) = (node for node, held in self._held.items() if held)
            (self.root,) = self._held[root_node]
            statistics.moved_bytes += self._sums_bytes * (root_node != this_node())
        return statistics

    def _next_merges(self) -> list[list[tuple[str, ray.ObjectRef]]]:
        """The (node, sums) pairs of each merge.

        While tasks run, a merge takes ``_FAN_IN`` sums of one node. When none runs, it takes the rest of one
        node. After that, it takes one sum per node.
        """
        least = 2 if not self._running else _FAN_IN
        merges = [
            [(node, held.pop()) for _ in range(min(len(held), _FAN_IN))]
            for node, held in self._held.items()
            if len(held) >= least
        ]
        # This process needs the root: if its node holds a sum, the others travel to it.
        holders = sorted(
            (node for node, held in self._held.items() if held), key=lambda node: node != this_node()
        )
        if not self._running and not merges and len(holders) > 1:
            merges = [[(node, self._held[node].pop()) for node in holders[:_FAN_IN]]]
        return merges


@ray.remote(num_returns=2, num_cpus=0)
def _merge(*parts: MomentSums) -> tuple[MomentSums, Report]:
    statistics = TaskStatistics()
    with statistics.timed("merge"):
        total = functools.reduce(operator.add, parts)
    return total, (this_node(), statistics)


def this_node() -> str:
    """Ray's identifier of the node that this process runs on."""
    return str(ray.get_runtime_context().get_node_id())
