"""HAProxy in front of the replicas; ray[serve] installs it on Linux.

It sends requests straight to the replicas. Serve's own proxy adds ten times as much latency
(docs/measurements.md).
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

# Every change of replicas replaces HAProxy's worker process. The old worker knows only the old replicas, and
# by default it keeps idle connections for minutes: the next request on one gets a 500 (ray#66056). So it must
# close them within a second, and replicas that stop must answer for longer than that. A request fails if its
# connection is closed just as the client sends it. That is rare where replicas change only when one dies. In
# an autoscaled service they change often, so no connection is kept.
_CLOSE_IDLE_S = 1
_DRAINING_S = 5
_CONNECTS = 3  # connection attempts per request; a 503 is never retried, which would add to the overload
_MARGIN_S = 5  # beyond the service's own time limit, so that the service answers first
_ENDS_S = 5.0


def controller_options(
    host: str, max_seconds: float = DEFAULT_LIMITS.max_seconds, autoscaled: bool = False
) -> dict[str, Any] | None:
    """Options of Serve's controller that turn HAProxy on; None where it cannot reach all replicas.

    HAProxy looks for the replicas of its own node at 127.0.0.1, and for others at their nodes' addresses,
    where they listen only if ``host`` is 0.0.0.0. Five seconds after ``max_seconds``, when every request has
    its answer, it gives up requests to stuck replicas and stops workers that a reload replaced. With
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
    """Files in a folder per user; in Ray's fixed folder, services of two users would overwrite them."""
    folder = _own_folder()
    return {
        ray_private.HAPROXY_CONFIG_FILE: f"{folder}/haproxy.cfg",
        ray_private.HAPROXY_SOCKET: f"{folder}/admin.sock",
        ray_private.HAPROXY_METRICS_SOCKET: f"{folder}/metrics.sock",
        ray_private.HAPROXY_STATE_FILE: f"{folder}/server-state",
        ray_private.HAPROXY_STATE_FOLDER: folder,
    }


def _free_ports() -> dict[str, str]:
    """Free ports for HAProxy's metrics and statistics; another service may use Ray's fixed ones."""
    names = (ray_private.HAPROXY_METRICS_PORT, ray_private.HAPROXY_STATS_PORT)
    with socket.socket() as first, socket.socket() as second:
        ports = {}
        for name, free in zip(names, (first, second), strict=True):
            free.bind(("127.0.0.1", 0))
            ports[name] = str(free.getsockname()[1])
    return ports


def end_orphans() -> list[int]:
    """Kill the HAProxy processes that a killed service of this user left behind, and free its port.

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
    """Whether a process is an HAProxy of this user that Ray Serve started and whose Ray has ended.

    Ray starts HAProxy in an actor, so a Ray that still runs has its raylet among the process's ancestors.
    """
    if process.name != "haproxy" or process.user != os.getuid():
        return False
    folders = (f"{_own_folder()}/", "/tmp/haproxy-serve/")  # the second is Ray's default
    if not any(argument.startswith(folders) for argument in process.command):
        return False
    return all(ancestor.name != "raylet" for ancestor in ancestors(process))
