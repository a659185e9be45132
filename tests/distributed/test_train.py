"""Training on a real local Ray: streaming, what a storage may hold, and what survives deaths."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.data
import torch
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from lbae.config import ModelConfig
from lbae.distributed.stream import Stream
from lbae.distributed.train import train
from lbae.errors import LbaeError, UserError
from lbae.io.model import load_network
from tests.conftest import ROOT, image_table

SMALL = {"preset": "demo", "epochs": 4, "workers": 2, "seed": 3}


def events(folder: Path) -> set[str]:
    """Tags in TensorBoard's event files: records of a length, a checksum, an event, a checksum."""
    tags = set()
    for file in folder.iterdir():
        data = file.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            tags |= {value.tag for value in Event.FromString(data[12 : 12 + size]).summary.value}
            data = data[16 + size :]
    return tags


@pytest.mark.parametrize("bad", [0, 100])
def test_a_stream_shows_every_image_once_an_epoch_in_as_many_batches_as_agreed(ray_session, bad):
    four_bytes = ModelConfig(image_size=32, padding=15, image_channels=1)
    rows = [index.to_bytes(4, "little") for index in range(9_000 - bad)] + [None] * bad
    table = ray.data.from_arrow(pa.table({"pixels": pa.array(rows, pa.binary(4))}))
    stream = Stream(table.iterator(), four_bytes, batch=64, steps=140, seed=5, epochs=1)
    epochs = [torch.cat(list(stream(epoch))).flatten(1).numpy().view("<u4").ravel().tolist() for epoch in (0, 1)]
    assert [len(epoch) for epoch in epochs] == [140 * 64] * 2
    assert stream.bad == bad
    assert epochs[0] != epochs[1]
    for epoch in epochs:
        once = sum(count == 1 for count in Counter(epoch).values())
        assert once == 140 * 64 if not bad else once >= 138 * 64
        assert epoch != sorted(epoch)


@pytest.mark.slow
def test_a_stream_of_images_trains_and_counts_what_is_bad(ray_session, tmp_path, digits):
    cells = [cell["bytes"] for cell in pq.read_table(digits / "a.parquet")["image"].to_pylist()]
    cells[5], cells[30] = b"no image", None
    image_table(tmp_path / "data.parquet", cells)
    options = {"data": str(tmp_path / "data.parquet"), "out": str(tmp_path / "m"), "preset": "demo", "batch_size": 32}
    result = train(**options, epochs=3, workers=2, feed="streaming", max_bad_fraction=0.1)
    losses = [epoch["train_loss"] for epoch in result["history"]]
    assert losses == sorted(losses, reverse=True)
    assert result["bad"] == 2
    assert 270 < result["images"] < 348  # the others are held out
    assert load_network(str(tmp_path / "m"))[2].config["feed"] == "streaming"
    tags = events(tmp_path / "m-checkpoints" / "tensorboard")
    assert {"train_loss", "validation_loss", "images_per_second", "learning_rate", "reconstructions"} <= tags
    assert {"bits/mean_abs", "bits/dead", "bits/entropy", "bits/redundancy"} <= tags


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 5}, r"another run \(train.epochs was 12, is now 5\)"),
        ({"workers": 1, "latent_dim": 64}, r"\(model.latent_dim was 128, is now 64; workers was 2, is now 1\)"),
    ],
)
def test_a_storage_belongs_to_one_run(pipeline, tmp_path, change, message):
    options = {"data": str(pipeline.data), "out": str(tmp_path / "m"), "storage": f"{pipeline.model}-checkpoints"}
    with pytest.raises(UserError, match=message):
        train(**options, **{"preset": "demo", "epochs": 12, "workers": 2, **change})


def test_a_storage_that_cannot_be_written_is_named(ray_session, tmp_path, digits):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(LbaeError, match=r"storage .*/file/storage cannot be written"):
        train(data=str(digits), out=str(tmp_path / "m"), storage=str(tmp_path / "file" / "storage"), **SMALL)


@pytest.mark.slow
def test_a_disk_that_fills_up_is_an_error_that_keeps_the_checkpoints_before(tmp_path, digits):
    """The storage is a disk of 15 MB, in a namespace of its own and of a Ray of its own; two checkpoints do not fit."""
    storage = tmp_path / "disk"
    storage.mkdir()
    options = {
        "--data": digits,
        "--out": tmp_path / "m",
        "--storage": storage,
        "--preset": "demo",
        "--epochs": 4,
        "--address": "local",
    }
    job = [sys.executable, "jobs/train.py", *(str(word) for option in options.items() for word in option)]
    script = f"mount -t tmpfs -o size=15m disk {storage} && {shlex.join(job)}; code=$?; find {storage}; exit $code"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert re.match(rf"error: the storage of {storage}/.* is full .*No space left", done.stderr.splitlines()[-1])
    assert "state.pt" in done.stdout


@pytest.fixture(scope="module")
def undisturbed(ray_session, tmp_path_factory, digits) -> list[dict]:
    """The losses of a run that nothing disturbed."""
    return train(data=str(digits), out=str(tmp_path_factory.mktemp("undisturbed") / "m"), **SMALL)["history"]


def checkpoints(storage: Path) -> int:
    return len(list(storage.glob("run/checkpoint_*/state.pt")))


def when(condition: Callable[[], object], act: Callable[[], object]) -> threading.Thread:
    """Acts as soon as the condition holds, for at most two minutes."""

    def watch() -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            if condition():
                act()
                return
            time.sleep(0.05)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def kill_a_worker() -> None:
    titles = {int(path.parent.name): path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")}
    workers = [pid for pid, title in titles.items() if b"RayTrainWorker" in title]
    os.kill(max(workers), signal.SIGKILL)


@pytest.mark.slow
def test_more_workers_than_images_are_refused(ray_session, tmp_path, digits):
    cells = [cell["bytes"] for cell in pq.read_table(digits / "a.parquet")["image"].to_pylist()[:1]]
    image_table(tmp_path / "data.parquet", cells)
    with pytest.raises(UserError, match="1 training images are too few for 2 workers; lower --workers"):
        train(data=str(tmp_path / "data.parquet"), out=str(tmp_path / "m"), **{**SMALL, "workers": 2})


@pytest.mark.slow
def test_losses_survive_the_death_of_a_worker(undisturbed, tmp_path, digits):
    storage = tmp_path / "s"
    killer = when(lambda: checkpoints(storage), kill_a_worker)
    result = train(data=str(digits), out=str(tmp_path / "m"), storage=str(storage), **SMALL)
    killer.join()
    assert result["history"] == undisturbed


@pytest.mark.slow
def test_losses_survive_the_death_of_the_driver(undisturbed, tmp_path, digits):
    options = [f"--{name}={value}" for name, value in SMALL.items()]
    command = [
        sys.executable,
        str(ROOT / "jobs" / "train.py"),
        "--data",
        str(digits),
        "--out",
        str(tmp_path / "m"),
        *options,
    ]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    when(lambda: checkpoints(tmp_path / "m-checkpoints"), first.kill).join()
    assert first.wait() == -signal.SIGKILL
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout.splitlines()[-1])["history"] == undisturbed


def after_the_death_of_a_node(data: Path, out: Path, **options: int) -> list[dict]:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "tests.distributed.dying_node", str(data), str(out), json.dumps({**SMALL, **options})]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert facts["killed"]
    return facts["history"]


@pytest.mark.slow
def test_losses_survive_the_death_of_a_node(undisturbed, tmp_path, digits):
    assert after_the_death_of_a_node(digits, tmp_path) == undisturbed


@pytest.mark.slow
def test_training_goes_on_with_the_workers_that_are_left(undisturbed, tmp_path, digits):
    history = after_the_death_of_a_node(digits, tmp_path, min_workers=1)
    assert [epoch["number"] for epoch in history] == [1, 2, 3, 4]
    assert history[-1]["train_loss"] < 1.5 * undisturbed[-1]["train_loss"]


@pytest.mark.slow
def test_a_loss_that_explodes_names_step_and_batch_and_is_not_tried_again(ray_session, tmp_path, digits):
    options = {"data": str(digits), "out": str(tmp_path / "m"), **SMALL, "bottleneck": "gaussian", "learning_rate": 0.9}
    with pytest.raises(LbaeError, match=r"training loss became (nan|inf) in step \d+, batch \d+ of 4 of epoch \d") as error:
        train(**options)
    assert error.value.exit_code == 1
    assert not (tmp_path / "m" / "manifest.json").exists()


@pytest.mark.slow
def test_a_baseline_trains_and_is_refused_where_bits_are_needed(ray_session, tmp_path, digits):
    train(data=str(digits), out=str(tmp_path / "m"), **{**SMALL, "epochs": 1}, bottleneck="continuous")
    with pytest.raises(UserError, match="is a continuous baseline, which has no binary latents"):
        load_network(str(tmp_path / "m"))


@pytest.mark.slow
def test_images_of_mixed_modes_and_sizes_train(ray_session, tmp_path, folder_of_images):
    with Image.open(next(folder_of_images.rglob("*.png"))) as image:
        for mode in ("L", "RGBA", "P", "CMYK"):
            folder = tmp_path / "images" / mode
            folder.mkdir(parents=True)
            for size in range(20, 26):
                image.convert(mode).resize((size, 70 - size)).save(folder / f"{size}.{'tiff' if mode == 'CMYK' else 'png'}")
    result = train(data=str(tmp_path / "images"), out=str(tmp_path / "m"), preset="demo", epochs=1, workers=2, batch_size=8)
    assert result["bad"] == 0
    assert 0 < result["images"] <= 24
