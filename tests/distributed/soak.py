"""A service under load whose replicas are killed and whose bundle is swapped.

``python -m tests.distributed.soak TOPOLOGY NODES SECONDS BUNDLE OTHER`` prints what the clients saw and the
memory of the replicas.

- On one node, every fifth of the time either the bundle registry or a replica is killed, in turn.
- On three nodes, a replica is suspended in the first fifth. In the second, a node with a replica is drained,
  as clouds do before they reclaim a machine. In the fourth, another node is lost without notice.
- The bundle is swapped after a third of the time, and back after two thirds.
"""

import asyncio
import itertools
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import ray
from ray._private.node import Node
from ray.cluster_utils import Cluster

from lbae.distributed.serve.running_service import swap
from lbae.distributed.serve.service import serving
from lbae.distributed.serve.service_plan import Topology
from lbae.io.artifacts.bundle_artifact import load_bundle
from lbae.web import client as web
from lbae.web.limits import Limits
from tests.web.conftest import pixels_of

PORT, CLIENTS, SEEDS = 18127, 6, 16
DRAINED_S = 12  # from the announcement of a drain to the end of the node
OTHER_THREADS = (
    2  # grey levels by which pixels may differ when another number of threads decodes the same latent
)


def replicas(registry: bool = False) -> list[psutil.Process]:
    """The replicas that this process started, or with ``registry`` the bundle registry."""
    title = "ray::ServeReplica:lbae:"
    names = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # HAProxy restarts whenever replicas start or stop
            names[process] = " ".join(process.cmdline())
    mine = {process: name for process, name in names.items() if name.startswith(title)}
    return [
        process for process, name in mine.items() if name.startswith(f"{title}BundleRegistry") == registry
    ]


def megabytes() -> list[int]:
    """Unshared memory of every replica."""
    return sorted(process.memory_full_info().uss // 2**20 for process in replicas())


async def client(
    expected: dict[str, list[np.ndarray]], seeds: itertools.count, until: float, seen: Counter
) -> None:
    """Request images until the time ends, and check every one."""
    async with web.AsyncClient(f"http://127.0.0.1:{PORT}") as service:
        while time.monotonic() < until:
            seed = next(seeds) % SEEDS
            started = time.monotonic()
            try:
                answer = await service.send(web.sample(1, seed=seed, format="png"))
            except Exception as error:
                late = isinstance(error, web.ServiceError) and error.status == 504
                seen["timeout" if late else f"failed: {error!r}"] += 1
                continue
            seen["slowest_ms"] = max(seen["slowest_ms"], round(1000 * (time.monotonic() - started)))
            image = expected[answer.bundle][seed]
            right = (
                np.abs(pixels_of(answer.content).reshape(image.shape).astype(int) - image).max()
                <= OTHER_THREADS
            )
            seen[answer.bundle if right else "another bundle's image"] += 1


async def faults(seconds: float, bundles: list[str], kill: Callable[[], str], killed: list[str]) -> None:
    """Call ``kill`` in every fifth of the time, and swap the bundle twice."""
    moments = [((i + 0.5) / 5, None) for i in range(5)] + [(1 / 3, bundles[1]), (2 / 3, bundles[0])]
    started = time.monotonic()
    for when, bundle in sorted(moments, key=lambda moment: moment[0]):
        await asyncio.sleep(max(0, started + when * seconds - time.monotonic()))
        if bundle:
            await asyncio.to_thread(swap, bundle)
        elif name := await asyncio.to_thread(
            kill
        ):  # in a thread, because removing a node takes seconds and the clients have to continue
            killed.append(name)


@contextmanager
def one_node() -> Iterator[Callable[[], str]]:
    """Start Ray on one node; yield a function that kills the registry or a random replica, and names it."""
    chance, registry = random.Random(0), itertools.cycle([True, False])

    def kill() -> str:
        victims = replicas(next(registry))
        if not victims:  # a killed registry may not have restarted yet
            return ""
        victim = chance.choice(victims)
        name = victim.cmdline()[0].split(":")[-1].split(".")[0]
        victim.kill()
        return name

    ray.init(
        address="local", num_cpus=2, object_store_memory=2**29, include_dashboard=False, log_to_driver=False
    )
    yield kill
    ray.shutdown()


@contextmanager
def three_nodes() -> Iterator[Callable[[], str]]:
    """Start Ray on three nodes; yield the function that causes the faults.

    Its first call suspends a replica, the second drains a node, and the fourth kills the other node.
    """
    options = {"num_cpus": 1, "object_store_memory": 2**28}
    cluster = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    workers, calls = [cluster.add_node(**options) for _ in range(2)], itertools.count(1)
    ray.init(address=cluster.address, log_to_driver=False)

    def kill() -> str:
        call = next(calls)
        if call == 1:
            replicas()[0].suspend()
            return "stuck"
        if call == 2:
            drain(next(node for node in workers if has_replica(node)), cluster.address)
            return "drained"
        if call == 4:
            left = next(node for node in workers if node.node_id in alive_nodes())
            cluster.remove_node(left, allow_graceful=False)
            return "node"
        return ""

    yield kill
    ray.shutdown()
    cluster.shutdown()


def has_replica(node: Node) -> bool:
    """Whether a replica or the registry runs on this node."""
    raylet = node.all_processes["raylet"][0].process.pid
    running = [*replicas(), *replicas(registry=True)]
    return any(raylet in (parent.pid for parent in process.parents()) for process in running)


def drain(node: Node, address: str) -> None:
    """Announce the end of a node, as an autoscaler does when the cloud reclaims a machine."""
    command = ["drain-node", "--address", address, "--node-id", node.node_id]
    reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "soak"]
    deadline = ["--deadline-remaining-seconds", str(DRAINED_S)]
    ray_command = Path(sys.executable).with_name("ray")
    subprocess.run([ray_command, *command, *reason, *deadline], check=True, capture_output=True)


def alive_nodes() -> list[str]:
    """Ids of the nodes that are alive."""
    return [node["NodeID"] for node in ray.nodes() if node["Alive"]]


async def main(topology: Topology, nodes: int, seconds: float, bundles: list[str]) -> None:
    """Serve under load, kill and swap, and print one line of JSON."""
    expected = {}
    for uri in bundles:
        bundle = load_bundle(uri, "cpu")
        expected[bundle.fingerprint] = [bundle.sample(1, seed)[0] for seed in range(SEEDS)]
    seen: Counter = Counter()
    killed: list[str] = []
    cluster = one_node() if nodes == 1 else three_nodes()
    with (
        cluster as kill,
        serving(bundles[0], PORT, limits=Limits(max_seconds=10), replicas=2, topology=topology),
    ):
        seeds = itertools.count()
        await client(expected, seeds, time.monotonic() + 5, Counter())
        before, until = megabytes(), time.monotonic() + seconds
        loads = [client(expected, seeds, until, seen) for _ in range(CLIENTS)]
        await asyncio.gather(faults(seconds, bundles, kill, killed), *loads)
        after = megabytes()
    print(
        json.dumps(
            {
                "bundles": list(expected),
                "killed": killed,
                "seen": seen,
                "before_mb": before,
                "after_mb": after,
            }
        )
    )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]))  # type: ignore[arg-type]
