"""Find the rows of a source whose keys a latent table has, in this process or in Ray tasks."""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Shaped, UInt8

from lbae.distributed.digests.repeated_rows import RepeatedRows
from lbae.io.artifacts.latent_table import LatentTable
from lbae.io.sources.hashes import key_digests
from lbae.io.sources.plan import runs
from lbae.io.sources.source import Shard, shard_keys
from lbae.io.storage.row_digests import KNOWN
from lbae.report.progress import ProgressLine

_TASK_KEYS = 2**19

_Task = str | tuple[Shard, ...]
"""A file of the table, or a run of shards."""


def known_rows(
    shards: tuple[Shard, ...], table: LatentTable, repeated: RepeatedRows, check_lock: Callable[[], None]
) -> UInt8[np.ndarray, "B"]:
    """One bit per row of a source, least significant first: 1 if the table or its quarantine has its key.

    Args:
        shards: All shards of the source.
        table: The latent table.
        repeated: Joins the digests of the keys. If it ``needs_ray``, a Ray session must be open.
        check_lock: Called per task.

    Raises:
        UserError: As :meth:`LatentTable.keys`.
    """
    tasks: list[_Task] = [*table.manifest.files, *_runs(shards)]
    total = table.manifest.rows + sum(shard.rows for shard in shards)
    with ProgressLine("compare", total, "keys") as line:
        repeated.add_each(
            tasks,
            lambda task: _digests(table, task),
            lambda task: f"reading keys of {_named(task)}",
            line,
            check_lock,
            in_tasks=repeated.needs_ray,
        )
    return repeated.left_out(check_lock)


def _runs(shards: tuple[Shard, ...]) -> Iterator[tuple[Shard, ...]]:
    rows = [shard.rows for shard in shards]
    for first, last in runs(rows, [0] * len(shards), _TASK_KEYS, 0):
        yield shards[first:last]


def _digests(table: LatentTable, task: _Task) -> tuple[Shaped[np.ndarray, "K"], int]:
    """The digests of a task's keys, and the number of its first row in the source, or ``KNOWN``."""
    if isinstance(task, str):
        keys, first = table.keys(task), KNOWN
    else:
        keys, first = (shard_keys(shard) for shard in task), task[0].start
    return np.concatenate([np.empty(0, "S16"), *map(key_digests, keys)]), first


def _named(task: _Task) -> str:
    return task if isinstance(task, str) else f"{task[0]} and {len(task) - 1} shards after it"
