"""Tasks that keep killing their process end the job, and errors name what failed on which task."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray.data
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import RayError

from lbae.distributed.cluster import tasks
from lbae.distributed.cluster.failures import root_cause
from lbae.distributed.cluster.session import session
from lbae.distributed.cluster.tasks import configure_ray_data, map_tasks, results, run_task
from lbae.errors import LbaeError, UnforeseenError, UserError, working_on
from lbae.io.sources.source import Shard

POISON = 2


def work(task: int) -> int:
    if task == POISON:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


@pytest.mark.slow
def test_a_task_that_kills_its_process_ends_the_job(ray_session):
    with pytest.raises(LbaeError, match="a worker process died 4 times"):
        list(results(map_tasks([0, POISON], lambda row: run_task(row, work), num_cpus=1)))


class Worker:
    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return run_task(row, work)


@pytest.mark.slow
def test_an_actor_that_keeps_dying_ends_the_job(ray_session, monkeypatch):
    monkeypatch.setattr(tasks, "_ACTOR_RESTARTS", 2)
    pool = ray.data.ActorPoolStrategy(size=1)
    with pytest.raises(LbaeError, match="a worker process died 3 times"):
        list(results(map_tasks([0, POISON, 1], Worker, compute=pool, num_cpus=1)))


class DyingOnce:
    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        def work(task: int) -> int:
            with suppress(FileExistsError):
                if task == POISON:
                    Path(self.marker).touch(exist_ok=False)
                    os.kill(os.getpid(), signal.SIGKILL)
            return task

        return run_task(row, work)


@pytest.mark.slow
def test_tasks_that_share_blocks_all_come_back_once_although_an_actor_dies(
    ray_session, monkeypatch, tmp_path
):
    monkeypatch.setattr(tasks, "_BLOCKS", 3)
    monkeypatch.setattr(tasks, "_BLOCKS_PER_CPU", 1)
    pool, marker = ray.data.ActorPoolStrategy(size=1), tmp_path / "died"
    rows = map_tasks(range(7), DyingOnce, fn_constructor_args=[str(marker)], compute=pool, num_cpus=1)
    assert sorted(results(rows)) == list(range(7))
    assert marker.exists()


@given(st.integers(1, 10**9), st.integers(1, 6000))
def test_a_driver_hands_out_at_most_100_000_blocks(many, cpus):
    handed_out = tasks.blocks(many, cpus)
    assert min(many, 16 * cpus) <= handed_out <= min(many, 100_000), "every CPU gets some"
    assert tasks.blocks(2048, cpus) == 2048, "few tasks have a block each"


def run(fail: Callable[[Any], Any], task: Any = 0, *doing: Callable[[Any], str]) -> None:
    list(results(map_tasks([task], lambda row: run_task(row, fail, *doing), num_cpus=1)))


def test_lbae_errors_and_os_errors_come_back_unchanged(ray_session):
    def full(task: int) -> None:
        raise OSError(28, "No space left on device", "/out")

    def refused(task: int) -> None:
        raise UserError("no images")

    with pytest.raises(LbaeError, match=r"^\[Errno 28\] No space left on device: '/out' \(while"):
        run(full)
    with pytest.raises(UserError, match=r"^no images(\n|$)"):
        run(refused)


def test_an_unforeseen_error_of_a_task_names_its_type_and_its_shard(ray_session):
    shard = Shard(root="/data", rows=10, size=0, files=("a.parquet",), columns=pa.schema([]), first_row=20)

    def fail(shard: Shard) -> None:
        raise TypeError("boom")

    message = r"^TypeError: boom \(while encoding /data/a.parquet, rows 20 to 29\)$"
    with pytest.raises(UnforeseenError, match=message):
        run(fail, shard, lambda shard: f"encoding {shard}")
    with pytest.raises(UnforeseenError, match=r"^TypeError: boom \(while working on 7\)$"):
        run(fail, 7)


class Broken:
    def __init__(self) -> None:
        raise TypeError("no model")

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return row


def test_an_actor_that_does_not_start_names_the_error_of_its_constructor(ray_session):
    pool = ray.data.ActorPoolStrategy(size=1)
    with pytest.raises(UnforeseenError, match=r"^TypeError: no model$"):
        list(results(map_tasks([0], Broken, compute=pool, num_cpus=1)))


@ray.remote
def summing(kind: type[Exception]) -> None:
    with working_on("summing part-00000.parquet"):
        raise kind("boom")


def test_an_unforeseen_error_of_a_plain_task_names_its_type_and_its_file(ray_session):
    message = r"^TypeError: boom \(while summing part-00000.parquet\)$"
    with pytest.raises(UnforeseenError, match=message), session():
        ray.get(summing.remote(TypeError))
    with pytest.raises(UserError, match=r"^boom(\n|$)"), session():
        ray.get(summing.remote(UserError))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (TypeError, "TypeError: boom (while decoding a.parquet)"),
        (KeyError, "KeyError: 'boom' (while decoding a.parquet)"),
        (UserError, "boom"),
    ],
)
def test_rays_retry_hint_is_removed_from_the_cause(ray_session, kind, expected):
    """Ray Data appends advice on retries to the messages of its tasks' errors."""

    def fail(batch: dict[str, Any]) -> None:
        with working_on("decoding a.parquet"):
            raise kind("boom")

    configure_ray_data()
    with pytest.raises(RayError, match="To change retry attempts") as caught:
        ray.data.from_items([{"a": 1}]).map_batches(fail).take_all()
    assert str(root_cause(caught.value)) == expected
