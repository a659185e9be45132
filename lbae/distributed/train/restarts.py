"""How often lost workers are restarted: without a limit, as long as checkpoints are made in between."""

from typing import Any

import ray
from ray.train import PreemptionError, ScalingConfig, TrainingFailedError

from lbae.distributed.cluster.failures import root_cause
from lbae.distributed.cluster.ray_private import controller_callback
from lbae.distributed.cluster.resources import cluster_cpus, cluster_gpus
from lbae.errors import LbaeError

RESTARTS = 3
# Failed starts, each with RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S as limit, by default a minute.
STARTS = 9


class RestartLimit(controller_callback()):  # type: ignore[misc]
    """Runs in Ray Train's controller, and ends a run whose workers fail again and again.

    Ray's own limits count for the whole run, so a long run on spot nodes would reach them. Every new
    checkpoint sets these back. An announced loss does not count. A failure that a restart would repeat ends
    the run at once.
    """

    def __init__(self, meter: Any, scaling: ScalingConfig) -> None:
        self._meter, self._scaling, self._most = meter, scaling, RESTARTS
        self._failures = self._starts = 0

    def on_checkpoint(self) -> None:
        """Set both counts back."""
        self._failures = self._starts = 0

    def on_restart(self, error: TrainingFailedError, started: bool) -> None:
        """Count a failure; LbaeError if it ends the run."""
        if not started:
            self._count_start(error)
            return
        if failure := ray.get(self._meter.failure.remote()):
            raise failure
        self._failures += not isinstance(error, PreemptionError)
        workers: dict[int, Exception] = getattr(error, "worker_failures", None) or {}
        cause = root_cause(next(iter(workers.values()), error))
        if self._failures > self._most:
            raise LbaeError(
                f"training workers failed {self._failures} times without a new checkpoint in between; the"
                f" last error: {cause}. Earlier checkpoints are kept: remove the cause, then run the same"
                f" command again"
            )
        self._meter.restarted.remote(str(cause))

    def _count_start(self, error: TrainingFailedError) -> None:
        self._starts += 1
        if self._starts > STARTS:
            cause = str(getattr(error, "controller_failure", error)).splitlines()[0]
            raise LbaeError(
                f"{self._scaling.num_workers} workers of {self._scaling.resources_per_worker} did not start"
                f" in {self._starts} tries; the cluster has {cluster_cpus()} CPUs and {cluster_gpus()} GPUs,"
                f" which other jobs may hold: lower --workers, or try again later ({cause})"
            )
