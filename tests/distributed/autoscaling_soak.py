"""A service whose replicas start and stop under long streams and keep-alive connections.

``python -m tests.distributed.autoscaling_soak SECONDS BUNDLE`` prints the numbers of replicas and what the
clients saw. Half of the time twelve clients read long streams, which takes three replicas; the other half,
only one client does. Other clients send short requests over keep-alive connections, some after long pauses.
No client retries.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from typing import Any

import httpx
import ray
from ray import serve

from lbae.distributed.serve import application
from lbae.distributed.serve.running_service import APP
from lbae.distributed.serve.service import serving
from lbae.io.artifacts.bundle_artifact import load_bundle
from lbae.io.images import encode_png
from lbae.web.client import interpolate
from lbae.web.limits import Limits

scaling = application._deployment_options

PORT, REPLICAS = 18128, 3
BUSY, IDLE = 12, 1  # streams at a time
PAUSES_S = (0.05, 0.5, 3, 12)  # between requests, one per keep-alive connection
STEPS, ITEMS = 32, 16  # seconds of work for a replica that has other requests


async def stream(url: str, image: bytes, seen: Counter) -> None:
    """Stream a path, and count in ``seen`` whether all frames arrived."""
    call = interpolate([image] * ITEMS, steps=STEPS, format="stream")
    frames, wanted = 0, (ITEMS - 1) * (STEPS - 1) + 1
    try:
        async with (
            httpx.AsyncClient(base_url=url, timeout=150) as client,
            client.stream(call.method, call.path, json=call.body) as answer,
        ):
            if answer.status_code != 200:
                seen[f"stream: {answer.status_code}"] += 1
                return
            async for _ in answer.aiter_lines():
                frames += 1
        seen["stream" if frames == wanted else f"stream: {frames} of {wanted} frames"] += 1
    except httpx.HTTPError as error:
        seen[f"stream: {error!r} after {frames} frames"] += 1


async def streams(url: str, image: bytes, until: float, phase_s: float, seen: Counter) -> None:
    """Keep BUSY and IDLE streams running in alternating phases."""
    started, running = time.monotonic(), set[asyncio.Task[None]]()
    while (now := time.monotonic()) < until:
        count = BUSY if int((now - started) / phase_s) % 2 == 0 else IDLE
        while len(running) < count:
            task = asyncio.create_task(stream(url, image, seen))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.sleep(0.1)
    await asyncio.gather(*running)


async def kept_connection(url: str, pause_s: float, until: float, seen: Counter) -> None:
    """Send short requests over one keep-alive connection."""
    limits = httpx.Limits(max_connections=1, keepalive_expiry=600)
    async with httpx.AsyncClient(base_url=url, timeout=150, limits=limits) as client:
        while time.monotonic() < until:
            try:
                answer = await client.post("/v1/sample", json={"n": 1, "seed": 1})
                seen["short" if answer.status_code == 200 else f"short: {answer.status_code}"] += 1
            except httpx.HTTPError as error:
                seen[f"short after {pause_s} s: {error!r}"] += 1
            await asyncio.sleep(pause_s)


async def watch(until: float, counts: list[int]) -> None:
    """Record the number of running replicas whenever it changes."""
    while time.monotonic() < until:
        status = await asyncio.to_thread(serve.status)
        states = status.applications[APP].deployments["LBAE"].replica_states
        count = sum(n for state, n in states.items() if state == "RUNNING")
        if counts[-1:] != [count]:
            counts.append(count)
        await asyncio.sleep(0.5)


def scaling_often(*arguments: Any) -> dict[str, Any]:
    """The product's options with short delays; by default Serve adds after 30 s and removes after 600 s."""
    options = scaling(*arguments)
    delays = {"upscale_delay_s": 2, "downscale_delay_s": 4, "look_back_period_s": 4, "metrics_interval_s": 1}
    if "autoscaling_config" in options:
        options["autoscaling_config"] |= delays
    return options


async def main(seconds: float, bundle: str) -> None:
    """Serve under load, and print one line of JSON."""
    image = encode_png(load_bundle(bundle, "cpu").sample(1, 0)[0])
    ray.init(
        address="local", num_cpus=4, object_store_memory=2**29, include_dashboard=False, log_to_driver=False
    )
    application._deployment_options = scaling_often
    limits = Limits(max_running=16)
    seen, counts = Counter(), list[int]()
    with serving(bundle, PORT, limits=limits, replicas=1, max_replicas=REPLICAS) as facts:
        until, url = time.monotonic() + seconds, facts["url"]
        await asyncio.gather(
            streams(url, image, until, seconds / 6, seen),
            watch(until, counts),
            *(kept_connection(url, pause_s, until, seen) for pause_s in PAUSES_S),
        )
    print(json.dumps({"replicas": counts, "seen": seen}))
    ray.shutdown()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), sys.argv[2]))
