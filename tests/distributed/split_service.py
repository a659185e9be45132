"""A split service behind a head that is to do no work, whose replicas die and whose bundle is swapped.

``python -m tests.distributed.split_service BUNDLE OTHER`` prints one line of JSON. A fused service first
gives the expected answers of both bundles. Then clients ask the split one, while a replica of each deployment
is killed in turn, and the bundle is swapped in between.
"""

import asyncio
import dataclasses
import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator

import httpx
import psutil
import ray
from ray import serve
from ray.cluster_utils import Cluster
from ray.serve.context import _get_global_client

from lbae.distributed.cluster.device import PRETEND_GPUS
from lbae.distributed.serve.running_service import APP, swap
from lbae.distributed.serve.service import serving
from lbae.distributed.serve.split_topology import ROLES
from lbae.io.artifacts.bundle_artifact import load_bundle
from lbae.io.images import encode_png
from lbae.web import client as web

PORT, CLIENTS, REPLICAS = 18130, 4, 2
TIMEOUT_S, UP_S, HEARD_S = 120, 240, 3
DEPLOYMENTS = ("Codec", "Sampler", "Interpolator", "Editor", "LBAE")
Expected = dict[str, dict[str, bytes]]  # by bundle and request


def asked(files: list[bytes]) -> dict[str, web.Call[httpx.Response]]:
    """Requests that together run every verb; a bundle answers them with the same bytes each time."""
    item = files[0]
    calls = {
        "sample": web.sample(5, seed=3, format="zip"),
        "given": web.sample(3, seed=1, given={"label=7": True}, format="latents"),
        "vary": web.vary(item, 3, seed=2, format="zip"),
        "interpolate": web.interpolate(files, steps=5, seed=4, format="strip"),
        "stream": web.interpolate(files, steps=5, seed=4, format="stream"),
        "edit": web.edit(item, set=["label=7"]),
        "until": web.edit(item, set=["label=7"], until=0.9),
        "reconstruct": web.reconstruct([item, b"no image"]),
        "encode": web.encode(files),
    }
    return {name: dataclasses.replace(call, parse=lambda answer: answer) for name, call in calls.items()}


def processes(deployment: str) -> list[psutil.Process]:
    """The replicas of a deployment."""
    title = f"ray::ServeReplica:{APP}:{deployment}"
    return [one for one in psutil.process_iter() if " ".join(one.cmdline()).startswith(title)]


def has_torch(process: psutil.Process) -> bool:
    """Whether a process has loaded torch."""
    return any("libtorch" in mapped.path for mapped in process.memory_maps())


async def collect(calls: dict[str, web.Call[httpx.Response]]) -> dict[str, bytes]:
    """The answer to every request, from one bundle."""
    async with web.AsyncClient(f"http://127.0.0.1:{PORT}", timeout=TIMEOUT_S) as service:
        answers = {name: await service.send(call) for name, call in calls.items()}
    assert len({answer.headers["X-Bundle"] for answer in answers.values()}) == 1
    return {name: answer.content for name, answer in answers.items()}


async def client(
    expected: Expected, calls: Iterator[tuple[str, web.Call]], stop: asyncio.Event, seen: Counter
) -> None:
    """Send requests until told to stop; count right answers by bundle, and all else by what it was."""
    async with web.AsyncClient(f"http://127.0.0.1:{PORT}", timeout=TIMEOUT_S) as service:
        while not stop.is_set():
            name, call = next(calls)
            try:
                answer = await service.send(call)
            except Exception as error:
                seen[f"{name} failed: {error!r}"] += 1
                continue
            bundle = answer.headers["X-Bundle"]
            seen[bundle if answer.content == expected[bundle][name] else f"{name} differs"] += 1


async def until_running() -> None:
    """Wait until every deployment has all its replicas again."""
    for _ in range(UP_S):
        status = await asyncio.to_thread(serve.status)
        found = status.applications[APP].deployments
        if all(found[name].replica_states == {"RUNNING": REPLICAS} for name in DEPLOYMENTS):
            return
        await asyncio.sleep(1)
    raise TimeoutError(f"replicas after {UP_S} s: {found}")


async def faults(other: str, killed: list[str]) -> None:
    """Kill a replica of each deployment in turn, and swap the bundle after the second."""
    for number, name in enumerate(DEPLOYMENTS):
        await asyncio.sleep(3)
        processes(name)[0].kill()
        killed.append(name)
        await asyncio.sleep(6)  # until Serve has noticed
        await until_running()
        if number == 1:
            await asyncio.to_thread(swap, other)


async def main(bundle: str, other: str) -> None:
    """Serve fused and split, and print one line of JSON."""
    os.environ[PRETEND_GPUS] = "1"
    options = {"object_store_memory": 2**28}
    cluster = Cluster(
        initialize_head=True, head_node_args={**options, "num_cpus": 0, "include_dashboard": False}
    )
    cluster.add_node(**options, num_cpus=2, num_gpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    expected: Expected = {}
    calls = asked([encode_png(image) for image in load_bundle(bundle, "cpu").sample(2, 5)])
    with serving(bundle, PORT, replicas=1, topology="fused") as facts:
        expected[facts["bundle"]] = await collect(calls)
        swapped = await asyncio.to_thread(swap, other)
        await asyncio.sleep(HEARD_S)
        expected[swapped["bundle"]] = await collect(calls)
    seen, killed, stop = Counter(), [], asyncio.Event()
    with serving(bundle, PORT, replicas=REPLICAS, topology="split"):
        details = _get_global_client().get_serve_details()["applications"][APP]["deployments"]
        first = await collect(calls)
        torch = {name: sorted({has_torch(one) for one in processes(name)}) for name in DEPLOYMENTS}
        memory_mb = {
            name: max(one.memory_full_info().uss >> 20 for one in processes(name)) for name in DEPLOYMENTS
        }
        gpus = {
            name: bool(of["deployment_config"]["ray_actor_options"].get("num_gpus"))
            for name, of in details.items()
        }
        registry_node = details["BundleRegistry"]["replicas"][0]["node_id"]
        sent = itertools.cycle(calls.items())
        clients = [asyncio.create_task(client(expected, sent, stop, seen)) for _ in range(CLIENTS)]
        await faults(other, killed)
        stop.set()
        await asyncio.gather(*clients)
        free = ray.available_resources().get("GPU", 0)
    print(
        json.dumps(
            {
                "deployments": sorted(details),
                "torch": torch,
                "gpus": gpus,
                "gpus_taken": 1 - free,
                "memory_mb": memory_mb,
                "registry_on_head": registry_node == cluster.head_node.node_id,
                "differ": [
                    name for name, content in first.items() if content != expected[facts["bundle"]][name]
                ],
                "bundles": list(expected),
                "killed": killed,
                "seen": seen,
            }
        )
    )
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    assert set(DEPLOYMENTS) == set(ROLES)
    asyncio.run(main(sys.argv[1], sys.argv[2]))
