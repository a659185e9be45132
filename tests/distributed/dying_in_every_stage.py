"""A node dies in every stage, and another replaces it: ``python -m tests.distributed.dying_in_every_stage``.

The head runs no tasks, as in cluster/. Two other nodes have a CPU and a pretended GPU each. In every stage,
the node on which the stage's work is first seen is killed without notice, and a new node joins.

- ``... DATA OUT`` runs a pipeline's stages and the service, with small options.
- ``... OPTIONS`` runs the given jobs: their options by their names, as JSON.

A line of JSON per stage says how long it took, whether the node died before the stage had ended, and what it
returned.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from ray._private.node import Node
from ray.cluster_utils import Cluster

from lbae.distributed.cluster.device import PRETEND_GPUS
from lbae.distributed.cluster.session import session
from lbae.distributed.serve.service import serving
from lbae.jobs.build.encode import encode
from lbae.jobs.build.evaluate import evaluate
from lbae.jobs.build.fit import fit
from lbae.jobs.build.ingest import ingest
from lbae.jobs.build.reduce import reduce
from lbae.jobs.build.train import train
from lbae.jobs.use.sample import sample
from lbae.web.client import Client
from lbae.web.client import sample as sample_images
from tests.distributed.test_train import checkpoints

PORT, SERVED_S, POLL_S = 18131, 30, 0.05
SHOWN = ("rows", "images", "fingerprint", "bundle", "requests", "failed")
WORK = {  # processes of a stage's work, by a part of their titles
    "ingest": "ray::Map",
    "train": "RayTrainWorker",
    "encode": "ray::Map",
    "reduce": "ray::_sums_on_node",
    "fit": "ray::_",
    "sample": "ray::Map",
    "evaluate": "ray::Map",
    "serve": "ray::ServeReplica:lbae:LBAE",
}


def serve(bundle: str) -> dict[str, int]:
    """Serve a bundle with two replicas for half a minute, and count the requests that were not answered."""
    counted = {"requests": 0, "failed": 0}
    with serving(bundle, PORT, replicas=2, topology="fused") as facts, Client(facts["url"]) as client:
        until = time.monotonic() + SERVED_S
        while time.monotonic() < until:
            counted["requests"] += 1
            try:
                client.send(sample_images(1, seed=counted["requests"], format="png"))
            except Exception as error:
                print(f"request {counted['requests']}: {error!r}", file=sys.stderr)
                counted["failed"] += 1
    return counted


JOBS: dict[str, Callable[..., dict[str, Any]]] = {
    "ingest": ingest,
    "train": train,
    "encode": encode,
    "reduce": reduce,
    "fit": fit,
    "sample": sample,
    "evaluate": evaluate,
    "serve": serve,
}


def every_stage(data: str, out: str) -> dict[str, dict[str, Any]]:
    """Options of all stages, which pass their artifacts on under ``out``."""
    names = ("images", "model", "latents", "moments", "bundle")
    images, model, latents, moments, bundle = (f"{out}/{name}" for name in names)
    made = {"model": model, "latents": latents, "moments": moments}
    return {
        "ingest": {"source": data, "out": images, "distinct": True},
        "train": {"data": images, "out": model, "preset": "demo", "epochs": 8, "gpus": 2},
        "encode": {"data": images, "model": model, "out": latents, "gpus": 2},
        "reduce": {"latents": latents, "out": moments},
        "fit": {**made, "out": bundle, "components": "10"},
        "sample": {"bundle": bundle, "out": f"{out}/samples", "num": 4096},
        "evaluate": {"bundle": bundle, "data": data, "out": f"{out}/evaluation", "cache": f"{out}/cache"},
        "serve": {"bundle": bundle},
    }


def begun(stage: str, options: dict[str, Any]) -> bool:
    """Whether a stage has got somewhere: training has a checkpoint, the service listens."""
    if stage == "train":
        return bool(checkpoints(Path(f"{options['out']}-checkpoints")))
    if stage == "serve":
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", PORT)) == 0
    return True


def working(nodes: list[Node], stage: str) -> Node | None:
    """The first of the nodes that works on a stage."""
    for node in nodes:
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        for process in raylet.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if WORK[stage] in " ".join(process.cmdline()):
                    return node
    return None


def run(cluster: Cluster, nodes: list[Node], stage: str, options: dict[str, Any]) -> None:
    """Run a stage, and print what became of it; a node of ``nodes`` is killed and replaced meanwhile."""
    started = time.monotonic()
    with ThreadPoolExecutor(1) as executor:  # nodes can only be started from the main thread
        running: Future[dict[str, Any]] = executor.submit(JOBS[stage], **options)
        victim = None
        while victim is None and not running.done():
            time.sleep(POLL_S)
            victim = working(nodes, stage) if begun(stage, options) else None
        killed = not running.done()
        if victim:
            cluster.remove_node(victim, allow_graceful=False)
            nodes.remove(victim)
            nodes.append(worker(cluster))
        result = running.result()
    facts = {name: result[name] for name in SHOWN if name in result}
    seconds = round(time.monotonic() - started, 1)
    print(json.dumps({"stage": stage, "seconds": seconds, "killed": killed, **facts}), flush=True)


def worker(cluster: Cluster) -> Node:
    """Start a node with a CPU and a pretended GPU."""
    return cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=2**28)


def main(stages: dict[str, dict[str, Any]]) -> None:
    """Start the nodes and run the stages."""
    os.environ[PRETEND_GPUS] = "1"
    head = {"num_cpus": 0, "object_store_memory": 2**28, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [worker(cluster) for _ in range(2)]
    with session(cluster.address):
        for stage, options in stages.items():
            run(cluster, nodes, stage, options)
    cluster.shutdown()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]) if len(sys.argv) == 2 else every_stage(*sys.argv[1:]))
