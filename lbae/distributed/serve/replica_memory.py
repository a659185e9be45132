"""The memory that replicas reserve on their nodes, so that Ray places no more of them than fit.

A reservation limits nothing; the requests of a replica limit themselves (:mod:`lbae.web.memory`). The figures
behind this module are in docs/measurements.md, measured on CPUs.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

from lbae.config import ModelConfig
from lbae.core.network.codec import CPU_BATCH, rows_per_batch
from lbae.core.prior.dichotomised_gaussian import model_bytes, models_to_cache
from lbae.distributed.serve.split_topology import INGRESS, ROLES
from lbae.io.artifacts.bundle_artifact import KIND, load_config
from lbae.io.artifacts.manifest import read_manifest
from lbae.web.limits import Limits

logger = logging.getLogger(__name__)

PROCESS_BYTES = 600_000_000  # Python, torch, Ray's worker and a small bundle, without shared libraries
_MAPS = 8  # of the network's first layer, at half the side of the images, while a batch is computed
_DECODED_BYTES = 2 * 225_000_000  # two uploads at a time


@dataclass(frozen=True, kw_only=True)
class ReplicaMemory:
    """Bytes that a replica takes at most: for itself, a batch of the codec, its models, its requests."""

    process: int
    batch: int
    edits: int
    variations: int
    requests: int


def replica_memory(bundle: str, threads: int, limits: Limits) -> ReplicaMemory:
    """What a replica needs that answers every request from the bundle at a URI."""
    config, result = load_config(bundle), read_manifest(bundle, KIND).result
    return ReplicaMemory(
        process=PROCESS_BYTES,
        batch=batch_bytes(config, threads),
        edits=models_bytes(2 * len(result["attributes"]), config.latent_dim),
        variations=models_bytes(result.get("components", 1), config.latent_dim),
        requests=limits.max_memory_bytes + _DECODED_BYTES,
    )


def batch_bytes(config: ModelConfig, threads: int) -> int:
    """The memory of a batch of the codec on CPUs; for small images it is part of that of the process."""
    side = config.image_size // 2
    return 4 * _MAPS * config.channels[0] * side**2 * rows_per_batch(config, CPU_BATCH) * threads


def models_bytes(count: int, bits: int) -> int:
    """The memory of the models of values or components that are cached, and of one that is computed."""
    return min(count, models_to_cache(bits) + 1) * model_bytes(bits)


def wanted_memory(needs: ReplicaMemory, split: bool) -> dict[str, int]:
    """Bytes that a replica of each deployment takes at most; one that does everything takes ``needs``."""
    if not split:
        return {INGRESS: sum(astuple(needs))}
    wanted = dict.fromkeys(ROLES, needs.process)
    wanted[INGRESS] += needs.requests
    wanted["Codec"] += needs.batch + needs.requests
    wanted["Editor"] += needs.edits
    wanted["Sampler"] += needs.variations
    return wanted


def reservations(
    wanted: Mapping[str, int], given: Mapping[str, int], replicas: Mapping[str, int], rooms: Sequence[float]
) -> dict[str, int]:
    """Bytes that a replica of each deployment reserves: what it wants, or where nodes have less, a share.

    So a service starts on any cluster that has the CPUs for it, and warns if the nodes are small.

    Args:
        wanted: What a replica of each deployment takes at most.
        given: What the user gives the replicas of some deployments instead; it is no subject to sharing.
        replicas: Replicas of each deployment.
        rooms: The memory of each node.
    """

    def at(share: float) -> dict[str, float]:
        return {name: given.get(name, share * bytes_) for name, bytes_ in wanted.items()}

    def all_(share: float) -> list[float]:
        return [bytes_ for name, bytes_ in at(share).items() for _ in range(replicas[name])]

    share = next((s / 10 for s in range(10, 0, -1) if _fit(all_(s / 10), rooms)), 0)
    if share < 1:
        logger.warning(
            f"under the worst load the replicas take {sum(all_(1)) / 1e9:.1f} GB, for which the nodes have no"
            f" room; they reserve {share:.0%} of it: give fewer replicas, or join a larger cluster"
        )
    return {name: int(bytes_) for name, bytes_ in at(share).items()}


def _fit(needs: Sequence[float], rooms: Sequence[float]) -> bool:
    """Whether replicas fit if each goes to the node with the most room, the largest first."""
    rooms = list(rooms)
    for need in sorted(needs, reverse=True):
        roomiest = max(range(len(rooms)), key=rooms.__getitem__)
        rooms[roomiest] -= need
        if rooms[roomiest] < 0:
            return False
    return True
