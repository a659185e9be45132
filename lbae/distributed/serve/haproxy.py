"""HAProxy, which ray[serve] brings along on Linux, in front of the replicas.

It sends requests straight to the replicas; Serve's own proxy takes ten times as long to pass one on
(docs/results.md).
"""

import math
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Any

from lbae.distributed.cluster import ray_private
from lbae.distributed.cluster.resources import cluster_nodes
from lbae.distributed.serve.processes import Process, ancestors, processes, read_process
from lbae.web.limits import DEFAULT_LIMITS

# Every change of replicas replaces HAProxy's worker. The old one knows only the old replicas, and it keeps
# idle connections for minutes by default: the next request on one gets a 500 (ray#66056). So it must close
# them within a second, and replicas that stop answer for longer than that. A client that sends a request just
# as its connection is closed sees it break. That is rare where replicas change only when one dies, but not in
# an autoscaled service, where no connection is kept.
_CLOSE_IDLE_S = 1
_DRAINING_S = 5
_CONNECTS = 3  # attempts to reach a replica; a refusal is never retried, or overload would grow by itself
_MARGIN_S = 5  # after the service's own limit: the service answers first
_ENDS_S = 5.0


def controller_options(
    host: str, max_seconds: float = DEFAULT_LIMITS.max_seconds, autoscaled: bool = False
) -> dict[str, Any] | None:
    """Options of Serve's controller that turn HAProxy on; None where it cannot reach all replicas.

    HAProxy looks for the replicas of its own node at 127.0.0.1, and for others at their nodes' addresses,
    where they listen only if ``host`` is 0.0.0.0. A request to a stuck replica is given up, and a worker that
    a reload replaces is ended, a little after ``max_seconds``: by then every request has its answer. With
    ``autoscaled``, connections are closed after each answer.
    """
    reaches_all = host == "0.0.0.0" or (host == "127.0.0.1" and cluster_nodes() == 1)
    if not reaches_all or sys.platform != "linux":
        return None
    seconds = str(math.ceil(max_seconds) + _MARGIN_S)
    variables = {
        ray_private.HAPROXY_ENABLE: "1",
        ray_private.INGRESS_DRAINING_S: str(_DRAINING_S),
        ray_private.HAPROXY_TIMEOUT_SERVER_S: seconds,
        ray_private.HAPROXY_HARD_STOP_AFTER_S: seconds,
        ray_private.HAPROXY_CLOSE_SPREAD_TIME_S: str(_CLOSE_IDLE_S),
        ray_private.HAPROXY_RETRY_ON: "conn-failure",
        ray_private.HAPROXY_RETRIES: str(_CONNECTS),
    }
    if autoscaled:
        variables[ray_private.HAPROXY_BALANCE] = ray_private.BALANCE_AND_CLOSE
    if host == "127.0.0.1":
        variables |= _own_files() | _free_ports()
    return {"runtime_env": {"env_vars": variables}}


def _own_folder() -> str:
    return f"/tmp/haproxy-serve-{os.getuid()}"


def _own_files() -> dict[str, str]:
    """A folder of this user: two users' services on a machine would overwrite files in Ray's fixed one."""
    folder = _own_folder()
    return {
        ray_private.HAPROXY_CONFIG_FILE: f"{folder}/haproxy.cfg",
        ray_private.HAPROXY_SOCKET: f"{folder}/admin.sock",
        ray_private.HAPROXY_METRICS_SOCKET: f"{folder}/metrics.sock",
        ray_private.HAPROXY_STATE_FILE: f"{folder}/server-state",
        ray_private.HAPROXY_STATE_FOLDER: folder,
    }


def _free_ports() -> dict[str, str]:
    """Ports for HAProxy's metrics and statistics, since Ray's fixed ones may be another service's."""
    names = (ray_private.HAPROXY_METRICS_PORT, ray_private.HAPROXY_STATS_PORT)
    with socket.socket() as first, socket.socket() as second:
        ports = {}
        for name, free in zip(names, (first, second), strict=True):
            free.bind(("127.0.0.1", 0))
            ports[name] = str(free.getsockname()[1])
    return ports


def end_orphans() -> list[int]:
    """End the HAProxy processes that a killed service of this user left behind, which still hold its port.

    Returns:
        Their process ids.
    """
    orphans = [process for process in processes() if _is_orphan(process)]
    for orphan in orphans:
        with suppress(ProcessLookupError):
            os.kill(orphan.pid, signal.SIGKILL)
    until = time.monotonic() + _ENDS_S
    while any(read_process(orphan.pid) for orphan in orphans) and time.monotonic() < until:
        time.sleep(0.05)
    return [orphan.pid for orphan in orphans]


def _is_orphan(process: Process) -> bool:
    """Whether it is this user's, runs with a configuration of Serve's, and belongs to no Ray any more.

    Ray starts HAProxy in an actor, so the raylet of a running Ray is among its ancestors.
    """
    if process.name != "haproxy" or process.user != os.getuid():
        return False
    folders = (f"{_own_folder()}/", "/tmp/haproxy-serve/")  # the second is Ray's own choice
    if not any(argument.startswith(folders) for argument in process.command):
        return False
    return all(ancestor.name != "raylet" for ancestor in ancestors(process))
