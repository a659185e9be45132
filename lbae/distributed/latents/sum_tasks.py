"""Moment sums of a latent table as a graph of Ray tasks: one partial a task, added up on its node before it
travels.

Rows are dealt out by Parquet row groups. A grouped pass first writes the rows of every task sorted by group,
a row group a group, and then sums each group like any table. Integers: any sharding, order or retry gives the
same bits.
"""

import dataclasses
import functools
import operator
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lbae.core.moments.kernel import BLOCK_ROWS, MomentAccumulator
from lbae.core.moments.moment_sums import MomentSums
from lbae.distributed.cluster.resources import cluster_cpus
from lbae.errors import UserError
from lbae.io.artifacts.attribute_columns import MAX_CLASSES, Attribute, indicators
from lbae.io.artifacts.latent_table import LatentTable, RowGroup, packed_latents, write_parquet

_FAN_IN = 8
_TASK_ROWS = (
    2**18
)  # about so many rows a task at most: losing one costs a second or two, starting one under a tenth
_CPU = torch.device("cpu")  # a GPU would wait for the reading of Parquet

Run = list[RowGroup]
# The group of every row, from 0; below 0 for rows of no group.
Assign = Callable[[pa.Table], np.ndarray]


@dataclass(kw_only=True)
class Spent:
    """What tasks did: rows and stored bytes read, bytes moved between nodes, seconds by kind of work."""

    node: str = ""
    tasks: int = 0
    rows: int = 0
    read_bytes: int = 0
    moved_bytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def on(self, work: str) -> Iterator[None]:
        """Time a piece of work."""
        started = time.perf_counter()
        yield
        self.seconds[work] = self.seconds.get(work, 0.0) + time.perf_counter() - started

    def add(self, other: "Spent") -> None:
        """Count another task's."""
        self.tasks += other.tasks
        self.rows += other.rows
        self.read_bytes += other.read_bytes
        self.moved_bytes += other.moved_bytes
        for work, seconds in other.seconds.items():
            self.seconds[work] = self.seconds.get(work, 0.0) + seconds

    def facts(self) -> dict[str, Any]:
        """For a job's last line."""
        return {
            "tasks": self.tasks,
            "bytes_read": self.read_bytes,
            "bytes_moved": self.moved_bytes,
            "task_seconds": {work: round(seconds, 2) for work, seconds in self.seconds.items()},
        }


def deal(groups: Sequence[RowGroup], tasks: int | None = None) -> list[Run]:
    """Row groups dealt out to at most ``tasks`` tasks (by default full rounds of all CPUs), in runs of about
    equal rows.
    """
    total = max(1, sum(group.rows for group in groups))
    if tasks is None:
        cpus = cluster_cpus()
        tasks = cpus * -(-total // (cpus * _TASK_ROWS))
    runs: dict[int, Run] = defaultdict(list)
    before = 0
    for group in groups:
        runs[before * tasks // total].append(group)
        before += group.rows
    return list(runs.values())


def by_value(column: str, values: set[Any]) -> tuple[list[Any], Assign]:
    """Groups of rows with the same value of a column; rows without one belong to no group. UserError for too
    many values.
    """
    if not 0 < len(values) <= MAX_CLASSES:
        raise UserError(
            f"column {column!r} has more than {MAX_CLASSES} distinct values, or none; it cannot make groups"
        )
    known = pa.array(sorted(values))

    def assign(rows: pa.Table) -> np.ndarray:
        return pc.fill_null(pc.index_in(rows[column].cast(known.type), known), -1).to_numpy()

    return known.to_pylist(), assign


def moment_sums_of(
    table: LatentTable,
    groups: Sequence[RowGroup],
    attributes: tuple[Attribute, ...],
    tasks: int | None,
    on_rows: Callable[[int], None],
) -> tuple[MomentSums, Spent]:
    """Sums over the rows of some row groups; ``on_rows`` hears how many are done."""
    spent = Spent()
    ((_, sums),) = _add_up(table, [deal(groups, tasks)], attributes, spent, on_rows)
    return ray.get(sums), spent


def grouped_sums_of(
    table: LatentTable,
    groups: Sequence[RowGroup],
    assign: Assign,
    count: int,
    columns: list[str],
    attributes: tuple[Attribute, ...],
    scratch: str,
    spent: Spent,
) -> Iterator[tuple[int, "ray.ObjectRef[MomentSums]"]]:
    """Sums of the rows of each of ``count`` groups, in the order in which they are ready.

    One pass over the table, reading ``columns``, calls ``assign`` and writes the rows by group below the URI
    ``scratch``. No process holds the sums of more than one group, unless the caller keeps them.
    """
    sorted_table = dataclasses.replace(table, uri=scratch)
    assigned = ray.put(assign)
    written = [
        _write_by_group.remote(table, sorted_table, run, assigned, columns, index)
        for index, run in enumerate(deal(groups))
    ]
    by_group: dict[int, Run] = {index: [] for index in range(count)}
    for found in ray.get(written):
        for index, group in found:
            by_group[index].append(group)
    per_group = [
        deal(run, max(1, sum(g.rows for g in run) // _TASK_ROWS)) or [[]] for run in by_group.values()
    ]
    yield from _add_up(sorted_table, per_group, attributes, spent, lambda rows: None)


@ray.remote
def _write_by_group(
    table: LatentTable, sorted_table: LatentTable, run: Run, assign: Assign, columns: list[str], index: int
) -> list[tuple[int, RowGroup]]:
    rows = pa.concat_tables(table.batches(run, columns)).combine_chunks()
    group = assign(rows)
    order = np.argsort(group, kind="stable")
    present, lengths = np.unique(group[group >= 0], return_counts=True)
    if not len(present):
        return []
    name = f"part-{index:05d}.parquet"
    write_parquet(sorted_table.uri, name, rows.take(order[(group < 0).sum() :]), lengths.tolist())
    return list(zip(present.tolist(), sorted_table.footer(name, columns)[0], strict=True))


def _add_up(
    table: LatentTable,
    work: Iterable[list[Run]],
    attributes: tuple[Attribute, ...],
    spent: Spent,
    on_rows: Callable[[int], None],
) -> Iterator[tuple[int, "ray.ObjectRef[MomentSums]"]]:
    """For each entry of ``work`` its index and the sum of its runs, as they become ready; a few at a time."""
    side = table.latent_dim + 2 * len(attributes) + 1
    waiting = deque(enumerate(work))
    running: dict[Any, _Tree] = {}
    while waiting or running:
        while waiting and len(running) < 2 * cluster_cpus():
            tree = _Tree(*waiting.popleft(), 8 * side**2)
            running |= dict.fromkeys(tree.begin(table, attributes), tree)
        (done,), _ = ray.wait(list(running))
        tree = running.pop(done)
        running |= dict.fromkeys(tree.arrived(done, spent), tree)
        on_rows(spent.rows)
        if tree.root is not None:
            yield tree.index, tree.root


class _Tree:
    """The partials of one set of sums on their way to its root: on one node first, then between nodes."""

    def __init__(self, index: int, runs: list[Run], sums_bytes: int) -> None:
        self.index, self._runs, self._sums_bytes = index, runs, sums_bytes
        self.root: Any = None
        self._running: dict[Any, tuple[Any, tuple[str, ...]]] = {}
        self._held: dict[str, list[Any]] = defaultdict(list)

    def begin(self, table: LatentTable, attributes: tuple[Attribute, ...]) -> list[Any]:
        """Start a task a run; their reports."""
        return [self._wait_for(_partial.remote(table, run, attributes), ()) for run in self._runs]

    def _wait_for(self, task: Any, sources: tuple[str, ...]) -> Any:
        """Expect a task that adds up what lies on the nodes ``sources``."""
        sums, report = task
        self._running[report] = (sums, sources)
        return report

    def arrived(self, report: Any, total: Spent) -> list[Any]:
        """Take in a task that is done; the reports of the merges that this started."""
        sums, sources = self._running.pop(report)
        spent: Spent = ray.get(report)
        spent.moved_bytes = self._sums_bytes * sum(node != spent.node for node in sources)
        total.add(spent)
        self._held[spent.node].append(sums)
        started = []
        for merge in self._merges():
            nodes, parts = zip(*merge, strict=True)
            here = NodeAffinitySchedulingStrategy(nodes[0], soft=True)
            started.append(self._wait_for(_merge.options(scheduling_strategy=here).remote(*parts), nodes))
        if not self._running:
            ((node, (self.root,)),) = ((node, held) for node, held in self._held.items() if held)
            total.moved_bytes += self._sums_bytes * (node != _node())
        return started

    def _merges(self) -> list[list[tuple[str, Any]]]:
        """Full fans of one node; when nothing runs any more, what is left on each node, then across nodes."""
        least = 2 if not self._running else _FAN_IN
        merges = [
            [(node, held.pop()) for _ in range(min(len(held), _FAN_IN))]
            for node, held in self._held.items()
            if len(held) >= least
        ]
        # The root is wanted here: where this process's node holds a sum, the others come to it.
        holders = sorted(
            (node for node, held in self._held.items() if held), key=lambda node: node != _node()
        )
        if not self._running and not merges and len(holders) > 1:
            merges = [[(node, self._held[node].pop()) for node in holders[:_FAN_IN]]]
        return merges


@ray.remote(num_returns=2)
def _partial(table: LatentTable, run: Run, attributes: tuple[Attribute, ...]) -> tuple[MomentSums, Spent]:
    spent = Spent(tasks=1, read_bytes=sum(group.stored_bytes for group in run), node=_node())
    total = MomentAccumulator(table.latent_dim, tuple(attribute.name for attribute in attributes), _CPU)
    columns = ["latent", *dict.fromkeys(attribute.column for attribute in attributes)]
    blocks = _blocks(table.batches(run, columns))
    while True:
        with spent.on("read"):
            rows = next(blocks, None)
        if rows is None:
            with spent.on("finish"):
                return total.sums(), spent
        with spent.on("unpack"):
            bits = total.unpack(packed_latents(rows), *indicators(rows, attributes))
        with spent.on("product"):
            total.add(bits)
        spent.rows += len(rows)


@ray.remote(num_returns=2, num_cpus=0)
def _merge(*parts: MomentSums) -> tuple[MomentSums, Spent]:
    spent = Spent(node=_node())
    with spent.on("merge"):
        total = functools.reduce(operator.add, parts)
    return total, spent


def _node() -> str:
    return str(ray.get_runtime_context().get_node_id())


def _blocks(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Batches joined to blocks that fill the kernel: part files may be small."""
    held: list[pa.Table] = []
    for batch in batches:
        if held and sum(map(len, held)) + len(batch) > BLOCK_ROWS:
            yield pa.concat_tables(held)
            held = []
        held.append(batch)
    if held:
        yield pa.concat_tables(held)
