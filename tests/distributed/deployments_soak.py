"""A split service on two nodes, one with a pretended GPU, whose deployments scale one after the other.

The service asks for a GPU, and waits for the node that has one.

``python -m tests.distributed.deployments_soak BUNDLE`` prints a line of JSON per deployment, and one of all.
In a phase per deployment, clients send requests that only this deployment has to work for, until it has two
replicas; then they stop until it has one again. Meanwhile a client asks for images that take all deployments.
No client retries.
"""

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import ray
from ray import serve
from ray.cluster_utils import Cluster

from lbae.distributed.cluster.device import PRETEND_GPUS
from lbae.distributed.serve import application
from lbae.distributed.serve.deployment_options import deployment_options
from lbae.distributed.serve.running_service import APP
from lbae.distributed.serve.service import serving
from lbae.distributed.serve.split_topology import INGRESS, ROLES
from lbae.web.client import Latent, decode, edit, interpolate, sample
from tests.distributed.autoscaling_soak import scaling_often

PORT, CLIENTS = 18129, 8
SLOW_BODIES = 24  # requests at a time that wait in the ingress for their bodies
SLOW_S = (2, 10)  # least and most seconds of one, so that they do not end together
UP_S, DOWN_S = 90, 60  # the most that a phase waits
# Verbs without a network take milliseconds of a request, so few of its requests are with them at a time.
TARGETS = {"Codec": 1, "Sampler": 0.2, "Interpolator": 0.2, "Editor": 0.05}
IMAGES_S = 3  # between the requests that take all deployments
Send = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]


async def slow_body(client: httpx.AsyncClient) -> httpx.Response:
    """A request whose body arrives slowly, and which the ingress refuses alone: its format does not exist."""

    async def body() -> Any:
        yield b'{"n": 1, "seed": 0,'
        await asyncio.sleep(random.uniform(*SLOW_S))
        yield b' "format": "none"}'

    return await client.post("/v1/sample", content=body(), headers={"content-type": "application/json"})


def sender(call: Any) -> Send:
    """What sends a call, without the client's retries."""
    return lambda client: client.request(call.method, call.path, json=call.body)


def loads(latents: list[Latent]) -> dict[str, tuple[int, Send]]:
    """The number of clients and their request that keep one deployment busy, by its name."""
    calls = {
        "Sampler": sample(1024, seed=0, format="latents"),
        "Interpolator": interpolate(latents[:16], steps=64, format="latents"),
        "Editor": edit(latents[0], set=["label=7"], format="latents"),
        "Codec": decode(latents),
    }

    return {name: (CLIENTS, sender(call)) for name, call in calls.items()} | {
        INGRESS: (SLOW_BODIES, slow_body)
    }


async def requests(
    url: str, name: str, send: Send, stop: asyncio.Event, seen: Counter, pause_s: float
) -> None:
    """Send one request after the other, and count in ``seen`` what came back."""
    wanted = 422 if name == INGRESS else 200
    async with httpx.AsyncClient(base_url=url, timeout=150) as client:
        while not stop.is_set():
            try:
                answer = await send(client)
                seen[name if answer.status_code == wanted else f"{name}: {answer.status_code}"] += 1
            except httpx.HTTPError as error:
                seen[f"{name}: {error!r}"] += 1
            await asyncio.sleep(pause_s)


async def replicas() -> dict[str, int]:
    """Running replicas of each deployment."""
    status = await asyncio.to_thread(serve.status)
    of = status.applications[APP].deployments
    return {name: of[name].replica_states.get("RUNNING", 0) for name in ROLES}


async def until(count: int, name: str, timeout_s: float, most: Counter) -> bool:
    """Whether a deployment comes to this many replicas in time; ``most`` keeps the most seen of each."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        now = await replicas()
        for one, running in now.items():
            most[one] = max(most[one], running)
        if now[name] == count:
            return True
        await asyncio.sleep(0.5)
    return False


async def phases(url: str, latents: list[Latent], seen: Counter) -> dict[str, Any]:
    """Per deployment: whether it scaled up and down, in how many seconds, and the most replicas of each."""
    found = {}
    for name, (clients, send) in loads(latents).items():
        stop, most, started = asyncio.Event(), Counter(), time.monotonic()
        busy = [asyncio.create_task(requests(url, name, send, stop, seen, pause_s=0)) for _ in range(clients)]
        up, up_s = await until(2, name, UP_S, most), time.monotonic() - started
        stop.set()
        await asyncio.gather(*busy)
        started = time.monotonic()
        down = await until(1, name, DOWN_S, most)
        found[name] = {
            "up": up,
            "down": down,
            "up_s": round(up_s),
            "down_s": round(time.monotonic() - started),
            "most": most,
        }
        print(json.dumps({name: found[name], "seen": seen}), flush=True)
    return found


async def main(bundle: str) -> None:
    """Serve under load, and print one line of JSON."""
    os.environ |= {PRETEND_GPUS: "1", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300"}
    head = {"num_cpus": 2, "object_store_memory": 2**28, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=cluster.address, log_to_driver=False)
    # Of its own, because it joins after the service has asked for a GPU.
    start = [Path(sys.executable).parent / "ray", "start", "--block", f"--address={cluster.address}"]
    node = subprocess.Popen(
        [*start, "--num-cpus=2", "--num-gpus=1", f"--object-store-memory={2**28}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    application._deployment_options = scaling_often
    own = deployment_options([f"{name}:target_requests={target}" for name, target in TARGETS.items()])
    seen, stop = Counter(), asyncio.Event()
    with serving(bundle, PORT, replicas=1, max_replicas=2, gpus=1, gpu_share=0.5, deployments=own) as facts:
        url = facts["url"]
        async with httpx.AsyncClient(base_url=url, timeout=150) as client:
            drawn = (await client.post("/v1/sample", json={"n": 256, "format": "latents"})).json()
        latents = [Latent(bytes.fromhex(one["hex"])) for one in drawn["latents"]]
        image = sender(sample(1, seed=1))
        everything = asyncio.create_task(requests(url, "image", image, stop, seen, IMAGES_S))
        scaled = await phases(url, latents, seen)
        stop.set()
        await everything
        gpus = ray.cluster_resources()["GPU"] - ray.available_resources().get("GPU", 0)
    print(json.dumps({"topology": facts["topology"], "gpus": gpus, "scaled": scaled, "seen": seen}))
    ray.shutdown()
    node.terminate()
    node.wait()
    cluster.shutdown()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
