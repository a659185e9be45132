"""Training the classifier of an evaluation: one Ray task, on a GPU if there is one."""

from typing import Any

import ray
import torch

from lbae.config import ModelConfig
from lbae.distributed.cluster.meter import start_meter, watched
from lbae.distributed.cluster.network_env import RUNS_A_NETWORK
from lbae.distributed.cluster.resources import cluster_gpus, node_cpus
from lbae.io.sources.source import Shard, Source, spread
from lbae.report.features.classifier import SETTINGS, Classifier, read_examples, train_classifier
from lbae.report.progress import ProgressLine

_ROWS = 60_000
_CPUS = 8


def trained_classifier(source: Source, config: ModelConfig) -> Classifier | str:
    """A classifier of the attributes of a source's images; where they have none, what they have instead."""
    shards, gpus = spread(source.shards, _ROWS), min(cluster_gpus(), 1)
    cpus = min(node_cpus(gpus), _CPUS)  # of a node that has the GPU, too: no other can run it
    meter = start_meter()
    ray.get(meter.begin.remote(0, SETTINGS["epochs"]))
    task = _train.options(num_cpus=cpus, num_gpus=gpus, runtime_env=RUNS_A_NETWORK).remote(
        shards, config, gpus, cpus, meter
    )
    with ProgressLine("classifier", SETTINGS["epochs"], "epochs") as line, watched(meter, line):
        trained: Classifier | str = ray.get(task)
    return trained


@ray.remote
def _train(
    shards: tuple[Shard, ...], config: ModelConfig, gpus: int, cpus: int, meter: Any
) -> Classifier | str:
    examples = read_examples(shards, config)
    if isinstance(examples, str):
        return examples

    def on_epoch(done: int, total: int, loss: float) -> None:
        meter.begin.remote(done, total)
        meter.say.remote(f"loss {loss:.3f}")

    device = (
        "cuda" if gpus and torch.cuda.is_available() else "cpu"
    )  # torch sees GPUs, too, that are not this task's
    threads = torch.get_num_threads()
    torch.set_num_threads(cpus)
    try:
        return train_classifier(examples, **SETTINGS, device=device, on_epoch=on_epoch)
    finally:  # this process does other tasks next, and the last bits of their figures depend on it
        torch.set_num_threads(threads)
        torch.cuda.empty_cache()  # for the actors that share the GPU with it
