"""The memory that replicas reserve on their nodes, so that Ray places no more of them than fit.

A reservation limits nothing; the requests of a replica limit themselves (:mod:`lbae.web.memory`). The figures
behind this module are in docs/measurements.md, measured on CPUs.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from lbae.config import ModelConfig
from lbae.core.network.codec import CPU_BATCH
from lbae.distributed.serve.split_topology import DEPLOYMENT_VERBS, INGRESS
from lbae.web.limits import Limits

logger = logging.getLogger(__name__)

_PROCESS_BYTES = 600_000_000  # Python, torch and Ray's worker with a small bundle, without shared libraries
_MAPS = 8  # of the network's widest layer, which has half the side of the images, while a batch is computed
_DECODED_BYTES = 2 * 200_000_000  # two uploads at a time
_EDIT_CACHE_BYTES = 2**29
_MATRIX_BYTES = 32  # per bit squared: four float64 matrices of an attribute's value


@dataclass(frozen=True, kw_only=True)
class ReplicaMemory:
    """Bytes that a replica takes at most: for itself, a batch of the codec, models of edits, requests."""

    process: int
    batch: int
    edits: int
    requests: int


def replica_memory(config: ModelConfig, attributes: int, threads: int, limits: Limits) -> ReplicaMemory:
    """What a replica needs for a bundle with this model and number of attributes."""
    model = _MATRIX_BYTES * config.latent_dim**2
    width, side = config.channels[0], config.image_size // 2
    return ReplicaMemory(
        process=_PROCESS_BYTES,
        batch=4 * _MAPS * width * side**2 * CPU_BATCH * threads,
        edits=min(2 * attributes * model, max(_EDIT_CACHE_BYTES, 3 * model)),
        requests=limits.max_memory_bytes + _DECODED_BYTES,
    )


def reservations(needs: ReplicaMemory, split: bool, replicas: int, rooms: Sequence[float]) -> dict[str, int]:
    """Bytes that a replica of each deployment reserves: its needs, or where nodes have less, a share of them.

    So a service starts on any cluster that has the CPUs for it, and warns if the nodes are small.

    Args:
        needs: What a replica needs that does everything.
        split: Whether each verb has a deployment of its own.
        replicas: Replicas of every deployment.
        rooms: The memory of each node.
    """
    wanted = {INGRESS: needs.process + needs.batch + needs.edits + needs.requests}
    if split:
        wanted = dict.fromkeys((INGRESS, *DEPLOYMENT_VERBS), needs.process)
        wanted[INGRESS] += needs.requests
        wanted["Codec"] += needs.batch + needs.requests
        wanted["Editor"] += needs.edits
    all_ = [*wanted.values()] * replicas
    share = next((s / 10 for s in range(10, 0, -1) if _fit([need * s / 10 for need in all_], rooms)), 0)
    if share < 1:
        logger.warning(
            f"under the worst load the replicas take {sum(all_) / 1e9:.1f} GB, for which the nodes have no"
            f" room; they reserve {share:.0%} of it: give fewer replicas, or join a larger cluster"
        )
    return {name: int(share * bytes_) for name, bytes_ in wanted.items()}


def _fit(needs: Sequence[float], rooms: Sequence[float]) -> bool:
    """Whether replicas fit if each goes to the node with the most room, the largest first."""
    rooms = list(rooms)
    for need in sorted(needs, reverse=True):
        roomiest = max(range(len(rooms)), key=rooms.__getitem__)
        rooms[roomiest] -= need
        if rooms[roomiest] < 0:
            return False
    return True
