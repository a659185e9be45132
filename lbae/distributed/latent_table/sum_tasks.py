"""Moment sums of a latent table as Ray tasks: one partial per task, added up by a reduction tree.

Sums are integers, so they are identical for any assignment of rows to tasks, any order and any retry.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray

from lbae.core.moments.moment_accumulator import BLOCK_ROWS, MomentAccumulator
from lbae.core.moments.moment_sums import MomentSums
from lbae.distributed.cluster.resources import cluster_cpus
from lbae.distributed.latent_table.reduction_tree import ReductionTree, Report, this_node
from lbae.distributed.latent_table.row_group_assignment import assign_row_groups
from lbae.distributed.latent_table.task_statistics import TaskStatistics
from lbae.io.artifacts.attribute_columns import Attribute, indicators
from lbae.io.artifacts.latent_table import LatentTable, RowGroup, packed_latents
from lbae.io.artifacts.latent_tables import LatentTables


def moment_sums_of(
    table: LatentTable | LatentTables,
    row_groups: Sequence[RowGroup],
    attributes: tuple[Attribute, ...],
    tasks: int | None,
    on_rows: Callable[[int], None],
) -> tuple[MomentSums, TaskStatistics]:
    """The moment sums of some row groups of a table, and the statistics of the tasks.

    Args:
        table: the latent table.
        row_groups: the row groups to sum.
        attributes: the attributes to sum with the bits.
        tasks: the maximum number of tasks; None as in :func:`assign_row_groups`. Without Ray there is one,
            in this process.
        on_rows: called with the number of rows summed so far.
    """
    if not ray.is_initialized():
        whole, facts = _partial_sums(table, row_groups, attributes)
        on_rows(facts.rows)
        return whole, facts
    total, root = TaskStatistics(), None
    for _, sums, statistics in sum_row_groups(table, [assign_row_groups(row_groups, tasks)], attributes):
        total.add(statistics)
        on_rows(total.rows)
        root = sums
    return ray.get(root), total


def sum_row_groups(
    table: LatentTable | LatentTables,
    assignments: Iterable[list[list[RowGroup]]],
    attributes: tuple[Attribute, ...],
) -> Iterator[tuple[int, ray.ObjectRef | None, TaskStatistics]]:
    """Yield (assignment index, reference of the sum or None, statistics) per completed task.

    An assignment holds the row groups of each task of one sum; the reference comes with the sum's last task.
    New sums start only while fewer than two tasks per CPU are pending, so few sums are held at a time.
    """
    side = table.latent_dim + 2 * len(attributes) + 1
    waiting = deque(enumerate(assignments))
    running: dict[ray.ObjectRef, ReductionTree] = {}
    while waiting or running:
        while waiting and len(running) < 2 * cluster_cpus():
            index, tasks = waiting.popleft()
            tree = ReductionTree(
                index, 8 * side**2, [_sums_on_node.remote(table, task, attributes) for task in tasks]
            )
            running |= dict.fromkeys(tree.running, tree)
        (done,), _ = ray.wait(list(running))
        tree = running.pop(done)
        statistics = tree.completed(done)
        running |= dict.fromkeys(tree.running, tree)
        yield tree.index, tree.root, statistics


@ray.remote(num_returns=2)
def _sums_on_node(*arguments: Any) -> tuple[MomentSums, Report]:
    sums, statistics = _partial_sums(*arguments)
    return sums, (this_node(), statistics)


def _partial_sums(
    table: LatentTable | LatentTables, row_groups: Sequence[RowGroup], attributes: tuple[Attribute, ...]
) -> tuple[MomentSums, TaskStatistics]:
    statistics = TaskStatistics(tasks=1, read_bytes=sum(group.stored_bytes for group in row_groups))
    total = MomentAccumulator(table.latent_dim, tuple(attribute.name for attribute in attributes))
    columns = ["latent", *dict.fromkeys(attribute.column for attribute in attributes)]
    blocks = _blocks(table.batches(row_groups, columns))
    while True:
        with statistics.timed("read"):
            rows = next(blocks, None)
        if rows is None:
            with statistics.timed("finish"):
                return total.sums(), statistics
        with statistics.timed("unpack"):
            bits = total.unpack(packed_latents(rows), *indicators(rows, attributes))
        with statistics.timed("product"):
            total.add(bits)
        statistics.rows += len(rows)


def _blocks(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Join batches to blocks of up to the kernel's size, because part files may be small."""
    held: list[pa.Table] = []
    for batch in batches:
        if held and sum(map(len, held)) + len(batch) > BLOCK_ROWS:
            yield pa.concat_tables(held)
            held = []
        held.append(batch)
    if held:
        yield pa.concat_tables(held)
