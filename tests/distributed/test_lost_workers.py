"""Training loses workers and nodes inside epochs, and ends with the losses of an undisturbed run."""

import json
import os
import re
import subprocess
import sys

import pytest
import ray
import ray.train
from ray.exceptions import ActorDiedError
from ray.train import ControllerError, PreemptionError, PreemptionInfo
from ray.train.v2.api.exceptions import WorkerGroupError

from lbae.distributed.cluster.meter import start_meter
from lbae.distributed.train import restarts
from lbae.distributed.train.restarts import RestartLimit
from lbae.errors import LbaeError, UserError
from lbae.jobs.build.train import train
from tests.conftest import QUICK_DEATH, ROOT, SAMPLE
from tests.distributed.lost_workers import OPTIONS, both

LOST = WorkerGroupError("lost", {1: ActorDiedError()})
ANNOUNCED = PreemptionError(PreemptionInfo(None, {"node": [1]}), drain_timed_out=True)
NOT_STARTED = ControllerError(RuntimeError("no such resources\nhints"))


@pytest.fixture
def limit(ray_session) -> RestartLimit:
    return RestartLimit(start_meter(), ray.train.ScalingConfig(num_workers=2))


def test_a_day_of_losses_with_checkpoints_in_between_is_survived(limit):
    for _ in range(20):
        for _ in range(restarts.RESTARTS):
            limit.on_restart(LOST, started=True)
        for _ in range(restarts.STARTS):
            limit.on_restart(NOT_STARTED, started=False)
        limit.on_checkpoint()
    assert ray.get(limit._meter.restarts.remote()) == 20 * restarts.RESTARTS


def test_the_fourth_loss_without_a_checkpoint_ends_the_run(limit):
    for _ in range(3):
        limit.on_restart(LOST, started=True)
    with pytest.raises(
        LbaeError, match=r"failed 4 times without a new checkpoint in between; the last error: .+\. Earlier"
    ):
        limit.on_restart(LOST, started=True)


def test_announced_losses_do_not_count(limit):
    for _ in range(50):
        limit.on_restart(ANNOUNCED, started=True)


def test_the_tenth_failed_start_ends_the_run(limit):
    for _ in range(9):
        limit.on_restart(NOT_STARTED, started=False)
    with pytest.raises(LbaeError, match=r"2 workers of .* did not start in 10 tries; .*no such resources\)$"):
        limit.on_restart(NOT_STARTED, started=False)


def test_a_failure_that_would_recur_ends_the_run_at_once(limit):
    ray.get(limit._meter.fail.remote(UserError("no images")))
    with pytest.raises(UserError, match="no images"):
        limit.on_restart(LOST, started=True)


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_the_time_between_checkpoints_is_positive(tmp_path, digits, minutes):
    with pytest.raises(UserError, match=rf"checkpoint_minutes is {minutes}; allowed: above 0"):
        train(data=str(digits), out=str(tmp_path / "m"), preset="demo", checkpoint_minutes=minutes)


@pytest.mark.parametrize(("workers", "kills"), [(1, 1), (2, 4)])
@pytest.mark.slow
def test_losses_are_equal_after_workers_are_killed_inside_epochs(
    ray_session, tmp_path, digits, workers, kills
):
    """By hand with 20 kills: tests/distributed/lost_workers.py. Two workers have unequal statistics."""
    facts = both(str(digits), str(tmp_path), workers, kills)
    assert facts["disturbed"] == facts["whole"]
    assert facts["kills"] == kills
    restarted = int(re.match(r"lost workers were restarted (\d+) times", facts["restarts"])[1])
    assert 1 <= restarted <= kills, "a kill while workers start is a failed start"
    assert facts["checkpoints_of_whole"] == OPTIONS["epochs"], "a short run makes none inside an epoch"


@pytest.mark.slow
def test_an_announced_loss_of_a_node_makes_a_checkpoint_and_losses_are_equal(tmp_path):
    """The next checkpoint by time is ten minutes away."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | QUICK_DEATH
    environment["RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S"] = "0.5"
    options = {"preset": "demo", "epochs": 3, "batch_size": 4, "workers": 2}
    script = [sys.executable, "-m", "tests.distributed.preempted_node", str(SAMPLE), str(tmp_path)]
    done = subprocess.run(
        [*script, json.dumps(options)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert facts["announced"], "the run was over before the signal"
    assert facts["left"], "the run was over before the node left"
    inside = {path.parent.name for path in (tmp_path / "m-checkpoints").glob("run/*/worker-1.pt")}
    assert len(inside) == 1
    assert facts["history"] == facts["whole"]
