"""Assign a table's row groups to tasks."""

from collections import defaultdict
from collections.abc import Sequence

from lbae.distributed.cluster.resources import cluster_cpus
from lbae.io.artifacts.latent_table import RowGroup

# At this size a lost task costs one to two seconds, and starting a task takes under a tenth of that.
TASK_ROWS = 2**18


def assign_row_groups(row_groups: Sequence[RowGroup], tasks: int | None = None) -> list[list[RowGroup]]:
    """The row groups of each task: in order, with about equal rows per task, and no empty task.

    Args:
        row_groups: the row groups of a table.
        tasks: the maximum number of tasks. By default the smallest multiple of the cluster's CPUs that gives
            each task about 2**18 rows or fewer.
    """
    total = max(1, sum(group.rows for group in row_groups))
    if tasks is None:
        cpus = cluster_cpus()
        tasks = cpus * -(-total // (cpus * TASK_ROWS))
    assigned: dict[int, list[RowGroup]] = defaultdict(list)
    before = 0
    for group in row_groups:
        assigned[before * tasks // total].append(group)
        before += group.rows
    return list(assigned.values())
