"""Say while a job runs which nodes its cluster loses, and when none is left that could work."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

_logger = logging.getLogger(__name__)

_POLL_S = 5.0


@contextmanager
def watched_nodes() -> Iterator[None]:
    """Log a warning for every node that leaves the cluster before the block ends.

    Ray and the stages repeat the work of lost nodes by themselves. Where no node with CPUs is left, they wait
    for one without an error, so that is said too.
    """
    stop, first = threading.Event(), _alive(ray.nodes())

    def watch() -> None:
        known = first
        while not stop.wait(_POLL_S):
            try:
                nodes = ray.nodes()
            except Exception:  # the head does not answer: Ray waits for it, and then ends the job
                continue
            known = _report(known, nodes)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_POLL_S)  # it may wait for a head that is gone


def _alive(nodes: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {node["NodeID"]: node for node in nodes if node["Alive"]}


def _report(before: dict[str, dict[str, Any]], nodes: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Log what was lost since ``before``, the nodes that were alive; return those that are alive now."""
    now, every = _alive(nodes), {node["NodeID"]: node for node in nodes}
    for lost in before.keys() - now.keys():
        why = " ".join(every.get(lost, {}).get("DeathReasonMessage", "").split())
        _logger.warning(
            f"node {before[lost]['NodeManagerAddress']} left the cluster{f' ({why})' if why else ''};"
            " what it had not finished is done again by other nodes"
        )
    if before.keys() - now.keys() and not any(node["Resources"].get("CPU") for node in now.values()):
        _logger.warning("no node with CPUs is left: the job waits for one to join, or stop it")
    return now
