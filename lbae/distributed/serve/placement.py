"""Whether the replicas of a service fit on the cluster's nodes, and waiting for nodes on which they do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lbae.distributed.cluster.resources import nodes, start_timeout_s, wait_until
from lbae.errors import UserError

Resources = Mapping[str, float]
_CPU_SHARES = (1, 1 / 2, 1 / 4, 1 / 5, 1 / 10, 1 / 20, 1 / 50, 1 / 100)
_COUNTED = ("CPU", "GPU", "memory")
_ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class Need:
    """What each of a deployment's replicas reserves, in Ray's resources; ``memory`` is in bytes."""

    deployment: str
    replicas: int
    resources: dict[str, float]


def cpu_share(needs: Sequence[Need], rooms: Sequence[Resources]) -> float:
    """CPUs per replica of those that name none: 1, or less where only then the nodes hold all replicas."""
    for share in _CPU_SHARES:
        filled = [replace(need, resources={"CPU": share} | need.resources) for need in needs]
        if _fit(filled, rooms):
            return share
    return 1


def _fit(needs: Sequence[Need], rooms: Sequence[Resources]) -> bool:
    """Whether all replicas fit if each goes to the node with the fewest GPUs, then the most CPUs, left."""
    free = [dict(room) for room in rooms]
    replicas = [need.resources for need in needs for _ in range(need.replicas)]
    for wanted in sorted(replicas, key=lambda one: (one.get("GPU", 0), one["CPU"]), reverse=True):
        roomy = [room for room in free if _holds(room, wanted)]
        if not roomy:
            return False
        chosen = max(roomy, key=lambda room: (-room.get("GPU", 0), room.get("CPU", 0)))
        for resource, amount in wanted.items():
            chosen[resource] -= amount
    return True


def _holds(room: Resources, resources: Resources) -> bool:
    return all(room.get(name, 0) + _ROUNDING >= amount for name, amount in resources.items())


def wait_for_room(needs: Sequence[Need]) -> None:
    """Ask the autoscaler for the replicas' resources, and wait until nodes have them.

    What other jobs use is not counted: their end, or an autoscaler, may free it.

    Raises:
        UserError: The timeout of :func:`lbae.distributed.cluster.resources.wait_until` passed.
    """
    bundles = [dict(need.resources) for need in needs for _ in range(need.replicas)]
    if not wait_until(lambda: shortage(needs, nodes()) is None, bundles):
        raise UserError(f"{shortage(needs, nodes())} (after {start_timeout_s():g} s)")


def shortage(needs: Sequence[Need], rooms: Sequence[Resources]) -> str | None:
    """Why the replicas cannot be placed: one fits no node, or all take more than the cluster has."""
    for need in needs:
        if not any(_holds(room, need.resources) for room in rooms):
            return (
                f"deployment {need.deployment} cannot be placed: a replica asks for {_text(need.resources)},"
                f" which no node has; the nodes have {_shapes(rooms)}: let it ask for less, or start larger"
                " nodes"
            )
    for resource in _COUNTED:
        asked = sum(need.replicas * need.resources.get(resource, 0) for need in needs)
        has = sum(room.get(resource, 0) for room in rooms)
        if asked > has + _ROUNDING:
            names = ", ".join(f"{need.replicas} {need.deployment}" for need in needs)
            return (
                f"the replicas ask for {_text({resource: asked})} ({names}); the cluster has"
                f" {_text({resource: has})}: give fewer replicas, or join a larger cluster"
            )
    return None


def _text(resources: Resources) -> str:
    """Resources in words, such as ``2 CPUs, 0.5 GPUs and 3.2 GB``."""
    words = [
        f"{resources[name] / 1e9:.1f} GB"
        if name == "memory"
        else f"{resources[name]:g} {name}{'' if resources[name] == 1 else 's'}"
        for name in _COUNTED
        if name in resources
    ]
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _shapes(rooms: Sequence[Resources]) -> str:
    """What nodes have, each kind of node once."""
    ordered = [{name: room.get(name, 0) for name in _COUNTED} for room in rooms]
    return "; ".join(sorted({_text(room) for room in ordered}))
