"""How a service is spread over the cluster: its topology, and the replicas of each deployment.

The plan is made once, before anything is deployed. It waits for the GPUs and CPUs that the options ask for,
so that a service never settles for what happened to be there first.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from lbae.distributed.cluster.resources import cluster_cpus, cluster_gpus, nodes, wait_for
from lbae.distributed.serve.deployment_options import DeploymentOptions
from lbae.distributed.serve.placement import Need, cpu_share, wait_for_room
from lbae.distributed.serve.replica_memory import replica_memory, reservations, wanted_memory
from lbae.distributed.serve.split_topology import INGRESS, ROLES
from lbae.errors import UserError, unknown
from lbae.web.limits import Limits

Topology = Literal["auto", "fused", "split"]

_MAX_THREADS = 4  # a batch keeps no more than a few threads busy
_ROOMY_CPUS = 4  # with as many, a second replica does not slow the first
_ROUNDING = 1e-6


class Scaling(BaseModel):
    """The options of ``lbae serve`` of the same names; what is omitted follows from the cluster."""

    model_config = ConfigDict(extra="forbid")

    replicas: int | None = None
    max_replicas: int | None = None
    topology: Topology = "auto"
    gpus: int | None = None
    gpu_share: float | None = None
    deployments: dict[str, DeploymentOptions] = {}


@dataclass(frozen=True, kw_only=True)
class DeploymentPlan:
    """The replicas of a deployment, and what each reserves; ``memory`` is in bytes."""

    least: int
    most: int
    target_requests: float
    cpus: float
    gpus: float
    memory: int

    @property
    def is_autoscaled(self) -> bool:
        """Whether Serve adds and removes replicas."""
        return self.least < self.most


@dataclass(frozen=True, kw_only=True)
class ServicePlan:
    """The topology, why it was chosen, and the plan of each deployment by name.

    ``threads`` are those of a replica that runs the network.
    """

    topology: Literal["fused", "split"]
    reason: str
    threads: int
    deployments: dict[str, DeploymentPlan]


def plan_service(bundle: str, scaling: Scaling, limits: Limits) -> ServicePlan:
    """The plan of a service that answers from the bundle at a URI.

    Raises:
        UserError: An option is out of its range, or the cluster lacks GPUs, CPUs or memory, even after
            waiting for nodes to join.
    """
    topology, reason = choose_topology(scaling, cluster_gpus())
    split = topology == "split"
    names = [*ROLES] if split else [INGRESS]
    options = {name: scaling.deployments.get(name, DeploymentOptions()) for name in names}
    for name, of in scaling.deployments.items():
        if name not in names:
            raise unknown(f"deployment of topology {topology}", name, names)
        _check(name, of)
    ranges = {name: _range(name, options[name], scaling) for name in names}
    network = next(name for name in names if not split or ROLES[name].runs_network)
    gpus = dict.fromkeys(names, 0.0) | {network: _wait_for_gpus(scaling, *ranges[network])}
    cpus = _wait_for_cpus(ranges, options, gpus, ranges[network][0])
    threads = _threads(options[network].cpus, ranges[network][0])
    # A head without CPUs holds no replica, so its memory does not count.
    rooms = [node.get("memory", 0) for node in nodes() if node.get("CPU")]
    memory = reservations(
        wanted_memory(replica_memory(bundle, threads, limits), split),
        {name: int(of.memory_gb * 1e9) for name, of in options.items() if of.memory_gb},
        {name: least for name, (least, _) in ranges.items()},
        rooms,
    )
    return ServicePlan(
        topology=topology,
        reason=reason,
        threads=threads,
        deployments={
            name: DeploymentPlan(
                least=ranges[name][0],
                most=ranges[name][1],
                target_requests=options[name].target_requests or limits.max_running / 4,
                cpus=cpus[name],
                gpus=gpus[name],
                memory=memory[name],
            )
            for name in names
        },
    )


def choose_topology(scaling: Scaling, gpus_there: int) -> tuple[Literal["fused", "split"], str]:
    """The topology that an option names, or else one that the hardware suggests, and the reason.

    Fused makes more images per core, also with a GPU that is pretended (docs/measurements.md). Split is for
    GPUs because there only the codec occupies one, and each part gets replicas of its own.
    """
    if scaling.topology != "auto":
        return scaling.topology, "as asked"
    if own := sorted(scaling.deployments.keys() - {INGRESS}):
        return "split", f"{', '.join(own)} {'has' if len(own) == 1 else 'have'} options of their own"
    if scaling.gpus or scaling.gpu_share or (scaling.gpu_share is None and gpus_there):
        return "split", "the codec runs on GPUs, and the work of other parts does not have to share its CPUs"
    return "fused", "nothing runs on GPUs, and on CPUs one deployment is faster"


def replica_range(least: int, most: int, name: str = "") -> tuple[int, int]:
    """Return the minimum and maximum number of replicas; UserError for an empty range."""
    if not 1 <= least <= most:
        of = f" of deployment {name}" if name else ""
        raise UserError(
            f"replicas{of} is {least}, max_replicas is {most}; allowed: replicas from 1, max_replicas no"
            " lower"
        )
    return least, most


def _range(name: str, options: DeploymentOptions, scaling: Scaling) -> tuple[int, int]:
    default = (2 if cluster_cpus() >= _ROOMY_CPUS else 1) if scaling.replicas is None else scaling.replicas
    replica_range(default, default if scaling.max_replicas is None else scaling.max_replicas)
    least = default if options.replicas is None else options.replicas
    most = max(least, scaling.max_replicas or 0) if options.max_replicas is None else options.max_replicas
    return replica_range(least, most, name)


def _check(name: str, options: DeploymentOptions) -> None:
    for field in ("target_requests", "cpus", "memory_gb"):
        value = getattr(options, field)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{field} of deployment {name} is {value:g}; allowed: above 0")


def _wait_for_gpus(scaling: Scaling, least: int, most: int) -> float:
    """Wait for the GPUs that the options ask for, and return the share of one per replica of the network."""
    gpus, share = scaling.gpus, scaling.gpu_share
    if gpus is not None and gpus < 1:
        raise UserError(f"gpus is {gpus}; allowed: 1 or more, or omit it")
    if share is not None and not 0 <= share <= 1:
        raise UserError(f"gpu_share is {share:g}; allowed: above 0, to 1, or 0 for no GPU")
    if gpus and share == 0:
        raise UserError(
            f"gpus is {gpus}, gpu_share is 0: the service would wait for GPUs that it does not use"
        )
    if share:
        needed = math.ceil(least / int(1 / share + _ROUNDING))
        if gpus and gpus < needed:
            raise UserError(
                f"gpus is {gpus}; {least} replicas with a gpu_share of {share:g} need {needed}: give a lower"
                " gpu_share, fewer replicas, or more GPUs"
            )
        gpus = gpus or needed
    if gpus:
        wait_for(
            gpus,
            "GPU",
            "start nodes that have GPUs, or omit --gpus and --gpu-share to use those of the cluster",
        )
    return share_of_gpu(gpus or cluster_gpus(), most) if share is None else share


def share_of_gpu(gpus: int, replicas: int) -> float:
    """The fraction of a GPU per replica; replicas share GPUs, so that none waits to be placed."""
    return 1 / math.ceil(replicas / gpus) if gpus else 0


def _wait_for_cpus(
    ranges: Mapping[str, tuple[int, int]],
    options: Mapping[str, DeploymentOptions],
    gpus: Mapping[str, float],
    network_replicas: int,
) -> dict[str, float]:
    """Wait until the nodes have room for all replicas, and return the CPUs per replica of each deployment."""
    each = 1 if cluster_cpus() > 1 else 0.5
    wait_for(math.ceil(network_replicas * each), "CPU", "give fewer replicas, or join a larger cluster")
    needs = [
        Need(
            deployment=name,
            replicas=least,
            resources=_given({"CPU": of.cpus, "GPU": gpus[name], "memory": int((of.memory_gb or 0) * 1e9)}),
        )
        for (name, of), (least, _) in zip(options.items(), ranges.values(), strict=True)
    ]
    share = cpu_share(needs, nodes())
    for need in needs:
        need.resources.setdefault("CPU", share)
    wait_for_room(needs)
    return {need.deployment: need.resources["CPU"] for need in needs}


def _given(resources: Mapping[str, Any]) -> dict[str, float]:
    return {name: amount for name, amount in resources.items() if amount}


def _threads(cpus: float | None, replicas: int) -> int:
    """Threads per replica: its own CPUs, or else its share of its node."""
    share = cluster_cpus() // max(replicas, len(nodes())) if cpus is None else int(cpus)
    return max(1, min(_MAX_THREADS, share))
