"""Train the classifier of an evaluation in one Ray task, on a GPU if there is one."""

from typing import Any

import ray
import torch
from ray.exceptions import RayTaskError

from lbae.config import ModelConfig
from lbae.distributed.cluster.device import checked_device, device_type
from lbae.distributed.cluster.failures import root_cause
from lbae.distributed.cluster.meter import start_meter, watched
from lbae.distributed.cluster.resources import cluster_gpus, node_cpus, own_cpus
from lbae.distributed.cluster.torch_env import TORCH_RUNTIME_ENV
from lbae.io.sources.source import Shard, Source, spread
from lbae.report.features.classifier import Classifier
from lbae.report.features.classifier_training import SETTINGS, train_classifier
from lbae.report.features.labelled_images import read_labelled_images
from lbae.report.progress import ProgressLine

_ROWS = 60_000
_CPUS = 8


def trained_classifier(source: Source, config: ModelConfig) -> Classifier:
    """Train a classifier of a source's labels or attributes; NoUsableLabels if it has no usable ones."""
    shards, gpus = spread(source.shards, _ROWS), min(cluster_gpus(), 1)
    cpus = min(node_cpus(gpus), _CPUS)  # of a node that also has the GPU
    meter = start_meter()
    ray.get(meter.set_progress.remote(0, SETTINGS["epochs"]))
    task = _train.options(num_cpus=cpus, num_gpus=gpus, runtime_env=TORCH_RUNTIME_ENV).remote(
        source.uri, shards, config, device_type(gpus), cpus, meter
    )
    with ProgressLine("classifier", SETTINGS["epochs"], "epochs") as line, watched(meter, line):
        try:
            trained: Classifier = ray.get(task)
        except RayTaskError as error:
            raise root_cause(error) from error
    return trained


@ray.remote
def _train(
    uri: str, shards: tuple[Shard, ...], config: ModelConfig, device: str, cpus: int, meter: Any
) -> Classifier:
    checked_device(device)
    examples = read_labelled_images(uri, shards, config)

    def on_epoch(done: int, total: int, loss: float) -> None:
        meter.set_progress.remote(done, total)
        meter.set_note.remote(f"loss {loss:.3f}")

    threads = torch.get_num_threads()
    torch.set_num_threads(min(cpus, own_cpus()))
    try:
        return train_classifier(examples, **SETTINGS, device=device, on_epoch=on_epoch)
    finally:  # Ray reuses the process, and the last bits of later results depend on the number of threads
        torch.set_num_threads(threads)
        torch.cuda.empty_cache()  # for the actors that share the GPU
