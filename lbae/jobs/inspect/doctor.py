"""Check packages, memory, GPUs, nodes and storage, and say what to fix."""

import logging
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from lbae.distributed.cluster.node_checks import check_nodes
from lbae.distributed.cluster.resources import cluster_cpus, cluster_gpus, cluster_nodes, wait_for
from lbae.distributed.cluster.session import session
from lbae.distributed.cluster.storage_check import check_storage
from lbae.errors import LbaeError, UserError
from lbae.io import machine_facts
from lbae.io.machine_facts import Check
from lbae.jobs.options import Address, Names

_logger = logging.getLogger(__name__)


def doctor(*, storage: Names = (), gpus: int = 0, address: Address = None) -> dict[str, Any]:
    """Check packages, token, memory, the Ray cluster, its nodes and storage; exit code 1 if a check fails.

    Nodes must have the same packages and keep objects in /dev/shm. Each GPU multiplies matrices.

    Args:
        storage: URI of a folder that jobs write to. Repeat for several.
            Every node writes and deletes a small file there.
        gpus: GPUs that the cluster must have, 0 or more. The job waits for them, 60 s by default.
    """
    if gpus < 0:
        raise UserError(f"gpus is {gpus}; allowed: 0 or more")
    done = []
    for check in _checks(storage, gpus, address):
        _logger.info(f"{'ok   ' if check.ok else 'FAILS'} {check.name}: {' '.join(check.note.split())}")
        done.append(check)
    return {"ok": all(check.ok for check in done), "checks": [asdict(check) for check in done]}


def _checks(storage: tuple[str, ...], gpus: int, address: str | None) -> Iterator[Check]:
    yield from machine_facts.checks()
    here = [machine_facts.storage(uri) for uri in storage]
    yield from here
    try:
        with session(address):
            yield _gpus(gpus)
            nodes = cluster_nodes()
            yield Check(
                name="Ray", ok=True, note=f"{nodes} nodes, {cluster_cpus()} CPUs, {cluster_gpus()} GPUs"
            )
            yield from check_nodes()
            for uri, check in zip(storage, here, strict=True):
                if check.ok:
                    yield _from_all_nodes(uri, nodes)
    except LbaeError as error:
        yield Check(name="Ray", ok=False, note=str(error))


def _gpus(wanted: int) -> Check:
    """Whether the cluster has the GPUs, or gets them: autoscaling adds GPU nodes only while a job asks."""
    try:
        wait_for(wanted, "GPU", "start nodes that have them, with a torch and a driver that can use them")
    except UserError as error:
        return Check(name="GPUs of the cluster", ok=False, note=str(error))
    return Check(name="GPUs of the cluster", ok=True, note=str(cluster_gpus()))


def _from_all_nodes(uri: str, nodes: int) -> Check:
    name = f"storage {uri} from all nodes"
    try:
        check_storage([], [f"{uri}/out"])
    except LbaeError as error:
        return Check(name=name, ok=False, note=str(error))
    return Check(name=name, ok=True, note=f"{nodes} nodes")
