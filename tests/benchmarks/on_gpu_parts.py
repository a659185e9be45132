"""The parts of on_gpu: ``python -m tests.benchmarks.on_gpu_parts PART`` prints rows as JSON."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import ray
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lbae import presets
from lbae.config import Config
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.core.network.codec import best_precision, to_network
from lbae.core.network.training import initial_state, training_step
from lbae.distributed.cluster.device import gpus_are_pretended
from lbae.io.artifacts.model_artifact import save_model
from lbae.io.artifacts.output import Output
from lbae.io.images import encode_image
from lbae.jobs.build.encode import encode
from lbae.jobs.build.train import train
from tests.benchmarks.conftest import untrained
from tests.benchmarks.training_without_ray import DEVICE, peak, seconds
from tests.conftest import ROOT, image_table, service

TINY = gpus_are_pretended()
IMAGES = {"demo": 400} if TINY else {"cifar10": 50_000, "celeba256": 4_096}
PRESETS = ("demo",) if TINY else ("cifar10", "celeba", "celeba256")
STEPS, PORT = (1 if TINY else 50), 18128
VARIANTS = {"eager": {}, "compiled": {}, "compiled, CUDA graphs": {"mode": "reduce-overhead"}}


def show(what: str, figure: str) -> None:
    """Print a row."""
    print(json.dumps([what, figure]), flush=True)


@contextmanager
def cluster() -> Iterator[None]:
    """A local Ray with this machine's GPUs, or with a pretended one."""
    options = {"num_cpus": 8, "num_gpus": 1} if TINY else {}
    context = ray.init(address="local", object_store_memory=2**30, log_to_driver=False, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", context.address_info["address"])
        yield
    ray.shutdown()


def jpegs(path: Path, preset: str) -> str:
    """Write an image table of smooth noise in a preset's size, as JPEGs; some images come several times."""
    count, side = IMAGES[preset], presets.get(preset).model.content_size
    coarse = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (64, 3, side // 4, side // 4)))
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear").permute(0, 2, 3, 1)
    files = [encode_image(image, "jpeg") for image in smooth.to(torch.uint8).numpy()]
    image_table(path, [files[index % 64] for index in range(count)], row_group_size=256)
    return str(path)


def bare_step(config: Config, batch: int, compiled: dict[str, str] | None) -> tuple[float, float]:
    """Images and operations per second of training steps on one batch that is there already."""
    network = LatentBernoulliAutoencoder(config.model).to(DEVICE).to(memory_format=torch.channels_last)
    state, precision = initial_state(network, config.train), best_precision(DEVICE)
    images = torch.zeros((batch, *config.model.image_shape), dtype=torch.uint8, device=DEVICE)
    pixels, options = to_network(images, config.model), {"backend": "eager"} if TINY else compiled or {}
    stepped = network if compiled is None else torch.compile(network, **options)

    def step(module: torch.nn.Module) -> Tensor:
        return training_step(module, state.optimizer, pixels, config.train.loss, precision)

    rate = STEPS * batch / seconds(lambda: [step(stepped) for _ in range(STEPS)])
    with FlopCounterMode(display=False) as counter:
        step(network)
    return rate, rate / batch * counter.get_total_flops()


def step_part() -> None:
    """A step on one batch: eager, compiled, as CUDA graphs; small batches and large ones."""
    most = peak()
    show("product of two large bfloat16 matrices", f"{most / 1e12:,.2f} TFLOP/s")
    for preset in PRESETS:
        for batch in (2,) if TINY else (64, 256):
            for name, options in VARIANTS.items():
                what = f"{preset}, batch of {batch}, {name}"
                rate, operations = bare_step(presets.get(preset), batch, None if name == "eager" else options)
                show(what, f"{rate:,.0f} images/s, {operations / most:.2f} of the product")


def feed_part() -> None:
    """Training jobs on one GPU, second epoch, against the eager step on one batch."""
    with cluster(), TemporaryDirectory() as folder:
        for preset in IMAGES:
            data, batch = jpegs(Path(folder, preset, "data.parquet"), preset), 8 if TINY else 256
            bare, _ = bare_step(presets.get(preset), batch, None)
            for feed in ("resident", "streaming"):
                options = {"preset": preset, "feed": feed, "batch_size": batch, "workers": 1, "gpus": 1}
                found = train(data=data, out=f"{folder}/{preset}-{feed}", epochs=1 if TINY else 2, **options)
                rate = found["images_per_second"]
                show(f"{preset}, {feed}", f"{rate:,.0f} images/s, {rate / bare:.2f} of the step on one batch")


def encode_part() -> None:
    """The encoding job, from files to a latent table."""
    with cluster(), TemporaryDirectory() as folder:
        for preset in IMAGES:
            config, model = presets.get(preset), f"{folder}/{preset}-model"
            output = Output(model, "model", parents={}, config=config.to_dict())
            save_model(output, LatentBernoulliAutoencoder(config.model), config, {"images": 0})
            data = jpegs(Path(folder, preset, "data.parquet"), preset)
            found = encode(model=model, data=data, out=f"{folder}/{preset}-latents", gpus=1)
            show(preset, f"{found['images_per_second']:,.0f} images/s")


def serve_part() -> None:
    """Both topologies under load, with the codec on the GPU."""
    load = [sys.executable, "-m", "tests.benchmarks.load"]
    with cluster(), TemporaryDirectory() as folder:
        bundle = untrained(Path(folder), PRESETS[0], components="10")["bundle"]
        for topology in ("fused", "split"):
            options = ["--bundle", bundle, "--topology", topology, "--gpus", "1", "--replicas", "1"]
            with service(*options, "--port", str(PORT)) as facts:
                for concurrency, images, requests in ((1, 1, 10), (16, 16, 20 if TINY else 300)):
                    numbers = map(str, (concurrency, images, requests))
                    done = subprocess.run(
                        [*load, f"{facts['url']}/v1/sample", *numbers],
                        cwd=ROOT,
                        capture_output=True,
                        text=True,
                        check=True,
                    )
                    found = json.loads(done.stdout)
                    times = f"p50 {found['p50']}, p99 {found['p99']} ms"
                    show(
                        f"{topology}, {concurrency} requests of {images} at a time",
                        f"{found['images_per_second']:,.0f} images/s, {times}",
                    )


def doctor_part() -> None:
    """What doctor says of the GPUs."""
    with cluster():
        command = [sys.executable, "jobs/doctor.py", "--gpus", "1"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    for check in json.loads(done.stdout)["checks"]:
        if "GPU" in check["name"] or "CUDA" in check["name"]:
            show(check["name"], f"{'ok' if check['ok'] else 'FAILED'}: {check['note']}")


PARTS: dict[str, Callable[[], None]] = {
    "doctor": doctor_part,
    "step": step_part,
    "feed": feed_part,
    "encode": encode_part,
    "serve": serve_part,
}

if __name__ == "__main__":
    PARTS[sys.argv[1]]()
