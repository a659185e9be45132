"""The Ray session of a job: join the cluster there is, or start a local one for the time of the job."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lbae import log
from lbae.distributed.cluster.connection import connect
from lbae.errors import LbaeError, UserError
from lbae.report.progress import ProgressLine

# Of processes that run a network on CPUs: glibc is to keep what is freed, in one arena for all threads.
# Activations are megabytes; by default such blocks come from the kernel and go back one by one, so that every
# layer of every batch waits for zeroed pages, and a training step takes 1.4 times as long (docs/results.md).
RUNS_A_NETWORK = {
    "env_vars": {
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": str(2**30),
        "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    }
}

_POLL_S = 0.5
_ACTORS_A_GPU = 4  # a GPU runs the network faster than one CPU decodes or compresses image files


@contextmanager
def session(address: str | None = None, gpus: int | None = None) -> Iterator[None]:
    """Connect to ``address``, else to the cluster of RAY_ADDRESS or of this machine's ``ray start``, else
    start a local Ray.

    A Ray that is connected already (a notebook's, a test's) is used and left alone. Where ``gpus`` are asked
    for, they are waited for as :func:`wait_for` does: a cluster may have nodes with GPUs only while somebody
    wants them. Errors of this package that tasks raise come out as themselves; what connecting raises says
    :func:`lbae.distributed.cluster.connection.connect`.
    """
    # A task that fails fails all its results; the one that is asked for carries the error, the others would
    # print it.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    joined = ray.is_initialized()
    if not joined:
        connect(address)
    try:
        if gpus is not None:
            wait_for_gpus(gpus)
        yield
    except RayError as error:
        raise root_cause(error) from error
    finally:
        if not joined:
            ray.shutdown()


def root_cause(error: BaseException) -> LbaeError:
    """The package's own error inside one that passed through Ray, or a line of the innermost message.

    The last one, of a traceback the error; the first one where hints follow it, as of CUDA and of Ray's watch
    over memory.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, LbaeError) and not isinstance(seen, RayTaskError):
            return seen
        inner = getattr(seen, "cause", None) or getattr(
            seen, "_base_exc", None
        )  # of Ray's tasks, of Ray Train's workers
        error, seen = seen, inner or seen.__cause__
    lines = str(error).strip().splitlines() or [repr(error)]
    hints_follow = isinstance(error, OutOfMemoryError) or lines[0].startswith("CUDA error")
    return LbaeError(lines[0] if hints_follow else lines[-1])


def cluster_cpus() -> int:
    """Whole CPUs of the cluster as Ray counts them, at least 1."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def nodes() -> list[dict[str, float]]:
    """Resources of every node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def node_cpus(gpus: int = 0) -> int:
    """Whole CPUs of the largest node with as many GPUs or more, at least 1."""
    return max([1, *(int(node.get("CPU", 0)) for node in nodes() if node.get("GPU", 0) >= gpus)])


def network_cpus() -> int:
    """Whole CPUs of the nodes that have GPUs, if any has, else of all: of those on which actors run a
    network.
    """
    with_gpus = [node for node in nodes() if node.get("GPU", 0)]
    return max(1, sum(int(node.get("CPU", 0)) for node in with_gpus or nodes()))


def own_cpus() -> int:
    """Whole CPUs of this process's node as Ray counts them, which a container's quota bounds, if it may run
    on as many.
    """
    here = ray.get_runtime_context().get_node_id()
    counted = next(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["NodeID"] == here)
    return max(1, min(int(counted), len(os.sched_getaffinity(0))))


def cluster_gpus() -> int:
    """GPUs of the cluster as Ray counts them."""
    return int(ray.cluster_resources().get("GPU", 0))


def wait_for(count: int, resource: Literal["CPU", "GPU"], remedy: str) -> None:
    """Wait until the cluster has ``count`` CPUs or GPUs, which its autoscaler, if it has one, is asked for.

    It waits as long as Ray Train does for its workers: RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S, by default a
    minute; then UserError with the ``remedy``.
    """

    def found() -> int:
        return int(ray.cluster_resources().get(resource, 0))

    if found() >= count:
        return
    patience = float(os.environ.get("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "60"))
    log.say(f"waiting up to {patience:g} s for {count} {resource}s; the cluster has {found()}")
    request_resources(bundles=[{resource: 1}] * count)
    deadline = time.monotonic() + patience
    while found() < count and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    request_resources(bundles=[])
    if found() < count:
        raise UserError(
            f"{count} {resource}s are needed; the cluster has {found()} after {patience:g} s: {remedy}"
        )


def wait_for_gpus(count: int) -> None:
    """:func:`wait_for` the GPUs that a job's ``gpus`` ask for. UserError for fewer than 1."""
    if count < 1:
        raise UserError(f"gpus is {count}; allowed: 1 or more, or leave it out")
    wait_for(count, "GPU", "start nodes that have them, or leave --gpus out to take what there is")


def actor_pool(cpus: int, gpus: int) -> tuple[int, float]:
    """How many actors of one CPU run a network over files, and each one's share of a GPU.

    They may take every CPU: what they work on is handed out by the driver, so no task waits for a CPU that
    they hold.
    """
    if not gpus:
        return cpus, 0
    sharing = max(1, min(_ACTORS_A_GPU, cpus // gpus))
    return gpus * sharing, 1 / sharing


def network_device() -> tuple[str, float]:
    """Kind of device on which actors and tasks run a network, and each one's share of a GPU."""
    share = actor_pool(network_cpus(), cluster_gpus())[1]
    return "cuda" if share else "cpu", share


def cluster_nodes() -> int:
    """Nodes of the cluster that are alive."""
    return len(nodes())


@ray.remote(num_cpus=0)
class Meter:
    """Counts what workers have done, for the driver's progress line."""

    def __init__(self) -> None:
        self._done = self._total = 0
        self._note = ""
        self._failure: LbaeError | None = None

    def begin(self, done: int, total: int) -> None:
        """Set what was done before and what is to do in all."""
        self._done, self._total = done, total

    def add(self, done: int) -> None:
        """Count."""
        self._done += done

    def say(self, note: str) -> None:
        """Set a word on it."""
        self._note = note

    def fail(self, error: LbaeError) -> None:
        """Set why the work cannot go on."""
        self._failure = self._failure or error

    def failure(self) -> LbaeError | None:
        """Why it cannot go on."""
        return self._failure

    def read(self) -> tuple[int, int, str]:
        """Done, total, note."""
        return self._done, self._total, self._note


def start_meter() -> Any:
    """A :class:`Meter` on the driver's node, so that it lives as long as the driver, whichever other node
    dies.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Meter.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]


@contextmanager
def watched(meter: Any, line: ProgressLine) -> Iterator[None]:
    """Show a :class:`Meter` on a progress line while the main thread waits for something else."""
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(_POLL_S):
            line.update(*ray.get(meter.read.remote()))

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
