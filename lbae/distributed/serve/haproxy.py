"""HAProxy in front of the replicas; ray[serve] installs it on Linux.

It sends requests straight to the replicas. Serve's own proxy adds ten times as much latency
(docs/measurements.md).
"""

import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lbae.distributed.cluster import ray_private
from lbae.distributed.cluster.resources import cluster_nodes
from lbae.distributed.serve.bounded_http import bound_http
from lbae.distributed.serve.private_haproxy import FOLDERS, use_private_haproxy
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
) -> dict[str, Any]:
    """Options of Serve's controller: limits of requests, and HAProxy where it can reach all replicas.

    HAProxy looks for the replicas of its own node at 127.0.0.1, and for others at their nodes' addresses,
    where they listen only if ``host`` is 0.0.0.0. Five seconds after ``max_seconds``, when every request has
    its answer, it gives up requests to stuck replicas, clients that neither send nor read, and workers that a
    reload replaced. With ``autoscaled``, connections are closed after each answer.
    """
    variables = {ray_private.HTTP_SERVER_CALLBACK: _import_path(bound_http)}
    reaches_all = host == "0.0.0.0" or (host == "127.0.0.1" and cluster_nodes() == 1)
    if reaches_all and sys.platform == "linux":
        seconds = str(math.ceil(max_seconds) + _MARGIN_S)
        variables |= {
            ray_private.HAPROXY_ENABLE: "1",
            ray_private.CONTROLLER_CALLBACK: _import_path(use_private_haproxy),
            ray_private.INGRESS_DRAINING_S: str(_DRAINING_S),
            ray_private.HAPROXY_TIMEOUT_CLIENT_S: seconds,
            ray_private.HAPROXY_TIMEOUT_SERVER_S: seconds,
            ray_private.HAPROXY_HARD_STOP_AFTER_S: seconds,
            ray_private.HAPROXY_CLOSE_SPREAD_TIME_S: str(_CLOSE_IDLE_S),
            ray_private.HAPROXY_RETRY_ON: "conn-failure",
            ray_private.HAPROXY_RETRIES: str(_CONNECTS),
        }
        if autoscaled:
            variables[ray_private.HAPROXY_BALANCE] = ray_private.BALANCE_AND_CLOSE
    return {"runtime_env": {"env_vars": variables}}


def _import_path(function: Callable[[], None]) -> str:
    return f"{function.__module__}:{function.__qualname__}"


def end_orphans() -> list[int]:
    """Kill the HAProxy processes that a killed service of this user left behind, and remove their folders.

    Returns:
        Their process ids. Their port is free afterwards.
    """
    orphans = {process.pid: folder for process in processes() if (folder := _folder_of_orphan(process))}
    for pid in orphans:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + _ENDS_S
    while any(map(read_process, orphans)) and time.monotonic() < until:
        time.sleep(0.05)
    for folder in orphans.values():
        shutil.rmtree(folder, ignore_errors=True)
    return list(orphans)


def _folder_of_orphan(process: Process) -> Path | None:
    """The folder of an HAProxy of this user that Ray Serve started and whose Ray has ended; None for others.

    Ray starts HAProxy in an actor, so a Ray that still runs has its raylet among the process's ancestors.
    """
    if process.name != "haproxy" or process.user != os.getuid():
        return None
    folders = [Path(argument).parent for argument in process.command if argument.endswith("/haproxy.cfg")]
    if any(ancestor.name == "raylet" for ancestor in ancestors(process)):
        return None
    return next((folder for folder in folders if str(folder).startswith(FOLDERS)), None)
