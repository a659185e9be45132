"""Training on a real local Ray: streaming, refused storages, and recovery after kills."""

import errno
import json
import os
import pickle
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.data
import ray.train
import torch
from PIL import Image
from ray.data import DataIterator
from ray.exceptions import ActorDiedError, RayTaskError
from ray.train.v2.api.exceptions import ControllerError
from ray.util.state import list_actors
from tensorboardX.proto.event_pb2 import Event

from lbae import presets
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.distributed.cluster.meter import start_meter
from lbae.distributed.train import restarts, trainer
from lbae.distributed.train.streaming_feed import StreamingFeed
from lbae.distributed.train.trainer import _explained
from lbae.distributed.train.worker import Settings, worker_failure
from lbae.errors import LbaeError, TransientStorageError, UserError
from lbae.io.artifacts.model_artifact import load_network, save_model
from lbae.io.artifacts.output import Output
from lbae.io.sources.plan import plan
from lbae.io.storage.location import resolve
from lbae.jobs.build.train import train
from tests.conftest import QUICK_DEATH, ROOT, image_table

SMALL = {"preset": "demo", "epochs": 4, "workers": 2, "seed": 3}


def events(folder: Path) -> set[str]:
    """Tags in TensorBoard's event files; a record is length, checksum, event, checksum."""
    tags = set()
    for file in folder.iterdir():
        data = file.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            tags |= {value.tag for value in Event.FromString(data[12 : 12 + size]).summary.value}
            data = data[16 + size :]
    return tags


@pytest.fixture(scope="module")
def finished(ray_session, tmp_path_factory, digits) -> dict[str, Any]:
    """Options and result of an undisturbed run."""
    folder = tmp_path_factory.mktemp("finished")
    places = {
        "data": str(digits),
        "test_data": str(digits / "a.parquet"),
        "out": str(folder / "m"),
        "storage": str(folder / "s"),
    }
    options = {**places, **SMALL}
    return {"options": options, "result": train(**options, keep=2)}


@pytest.fixture(scope="module")
def undisturbed(finished) -> list[dict]:
    """Its losses without the test loss, because the runs compared with it have no test images."""
    return [{**epoch, "test_loss": None} for epoch in finished["result"]["history"]]


def split_streams(shares: list[list[DataIterator]], steps: list[int]) -> list[list[list[int]]]:
    """The numbers of the images of two epochs, per worker and epoch; all workers read at the same time."""

    def work(parts: list[DataIterator]) -> list[list[int]]:
        cpu = torch.device("cpu")
        feed = StreamingFeed(parts, steps, (2, 2, 1), batch=64, seed=5, epochs=2, device=cpu)
        epochs = [torch.cat([batch.clone() for batch in feed(epoch)]) for epoch in (0, 1)]
        return [images.flatten(1).numpy().view("<u4").ravel().tolist() for images in epochs]

    with ThreadPoolExecutor(len(shares)) as threads:
        return list(threads.map(work, shares))


def test_workers_take_every_image_of_ray_datas_streams_once_per_epoch(ray_session):
    """Two parts of blocks of 100 images for two workers; each may leave out what fills no batch of a part."""
    order = ray.data.RandomSeedConfig(seed=5, reseed_after_execution=True)
    parts = []
    for rows in (range(2600), range(2600, 4200)):
        images = [index.to_bytes(4, "little") for index in rows]
        tables = [
            pa.table({"pixels": pa.array(images[i : i + 100], pa.binary(4))})
            for i in range(0, len(rows), 100)
        ]
        stream = (
            ray.data.from_arrow(tables)
            .randomize_block_order(seed=order)
            .map_batches(lambda table: table, batch_format="pyarrow")
        )
        parts.append(stream.streaming_split(2, equal=True))
    workers = split_streams(list(zip(*parts, strict=True)), [2600 // 2 // 64, 1600 // 2 // 64])
    for epoch in (0, 1):
        first = [image for worker in workers for image in worker[epoch][: 20 * 64]]
        second = [image for worker in workers for image in worker[epoch][20 * 64 :]]
        assert len(set(first)) == len(first) == 2 * 20 * 64
        assert len(set(second)) == len(second) == 2 * 12 * 64
        assert max(first) < 2600 <= min(second)
    assert workers[0][0] != workers[0][1]
    assert set(workers[0][0]) != set(workers[0][1]), "Ray Data takes the blocks in another order"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 5}, r"another run \(train.epochs was 12, is now 5\)"),
        (
            {"workers": 1, "latent_dim": 64},
            r"\(model.latent_dim was 128, is now 64; workers was 2, is now 1\)",
        ),
    ],
)
def test_a_storage_belongs_to_one_run(pipeline, tmp_path, change, message):
    options = {
        "data": str(pipeline.data),
        "out": str(tmp_path / "m"),
        "storage": f"{pipeline.model}-checkpoints",
    }
    with pytest.raises(UserError, match=message):
        train(**options, **{"preset": "demo", "epochs": 12, "workers": 2, **change})


def test_a_storage_inside_the_output_is_refused(tmp_path, digits):
    with pytest.raises(UserError, match=r"storage .*/m/s lies in the output .*/m; give a folder outside it"):
        train(data=str(digits), out=str(tmp_path / "m"), storage=str(tmp_path / "m" / "s"), **SMALL)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_storage_with_other_files_is_refused_and_kept(ray_session, tmp_path, digits, overwrite):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.txt").write_text("years of work")
    out, config = str(tmp_path / "m"), presets.get("demo")
    if overwrite:
        output = Output(out, "model", parents={}, config=config.to_dict())
        save_model(output, LatentBernoulliAutoencoder(config.model), config, {"images": 0})
    with pytest.raises(
        UserError, match=r"storage .*/s holds files but no training run; give another --storage"
    ):
        train(data=str(digits), out=out, storage=str(tmp_path / "s"), overwrite=overwrite, **SMALL)
    assert (tmp_path / "s" / "thesis.txt").read_text() == "years of work"
    assert not overwrite or load_network(out), "the refused job replaced nothing"


def test_elastic_workers_cannot_use_the_streaming_feed(ray_session, tmp_path, digits):
    options = {**SMALL, "workers": 4, "min_workers": 1, "feed": "streaming"}
    with pytest.raises(UserError, match="min_workers is 1 of 4 and the feed is streaming"):
        train(data=str(digits), out=str(tmp_path / "m"), **options)


@pytest.mark.slow
def test_a_run_is_restarted_republished_or_already_finished(finished):
    """The storage knows the number of workers; ``overwrite`` restarts a run only if it is finished."""
    options, history = finished["options"], finished["result"]["history"]
    out, storage = Path(options["out"]), Path(options["storage"])
    assert len(list(storage.glob("run/checkpoint_*"))) in (
        2,
        3,
    )  # the best two, and the newest if it is not among them
    no_workers = {name: value for name, value in options.items() if name != "workers"}
    assert train(**no_workers)["already"]
    shutil.rmtree(out)
    since = max(path.stat().st_mtime_ns for path in storage.rglob("state.pt"))
    assert train(**no_workers, overwrite=False)["history"] == history, (
        "published from the existing checkpoints"
    )
    assert max(path.stat().st_mtime_ns for path in storage.rglob("state.pt")) == since
    assert train(**options, overwrite=True)["history"] == history
    assert max(path.stat().st_mtime_ns for path in storage.rglob("state.pt")) > since


@pytest.mark.slow
def test_test_images_are_measured_every_epoch(finished):
    """They do not influence training: the other runs of this file have none, and the same losses."""
    tested = [epoch["test_loss"] for epoch in finished["result"]["history"]]
    assert len(tested) == SMALL["epochs"]
    assert tested == sorted(tested, reverse=True)
    assert "test_loss" in events(Path(finished["options"]["storage"]) / "tensorboard")


@pytest.mark.slow
def test_waiting_for_cpus_that_others_hold_ends_after_ten_tries(tmp_path, digits):
    """With its own local Ray, because Ray Train's controller reads the timeout from its environment."""
    script = f"""
import ray
from lbae.jobs.build.train import train

@ray.remote(num_cpus=2)
class Holder:
    def ready(self):
        return True

ray.init(address="local", num_cpus=2, object_store_memory=2**28, include_dashboard=False, log_to_driver=False)
holder = Holder.remote()
ray.get(holder.ready.remote())
train(data={str(digits)!r}, out={str(tmp_path / "m")!r}, preset="demo", workers=2)
"""
    environment = {**os.environ, "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "0.1"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    error = done.stderr.splitlines()[-1]
    assert (
        "2 workers of {'CPU': 1.0} did not start in 10 tries; the cluster has 2 CPUs and 0 GPUs" in error
    ), done.stderr


@pytest.mark.slow
def test_threads_are_bounded_by_rays_cpus_and_the_cpu_affinity():
    """As in a container with fewer CPUs than its host, and on a node started with too many CPUs."""
    script = """
import ray
from lbae.distributed.cluster.resources import own_cpus

for counted in (1, 999):
    options = {"object_store_memory": 2**28, "include_dashboard": False, "log_to_driver": False}
    ray.init(address="local", num_cpus=counted, **options)
    print(own_cpus(), ray.get(ray.remote(own_cpus).remote()))
    ray.shutdown()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.stdout.split() == ["1", "1"] + 2 * [str(len(os.sched_getaffinity(0)))], done.stderr


@pytest.mark.parametrize(
    ("batch", "rows", "workers"), [(256, 5000, 2), (255, 5000, 1), (63, 5000, 1), (256, 60, 1), (64, 64, 2)]
)
def test_by_default_every_cpu_gets_a_worker_with_an_equal_share_of_the_batch(
    ray_session, batch, rows, workers
):
    assert trainer.default_workers(presets.get("demo").replace(batch_size=batch), rows) == workers


SETUP = RayTaskError(
    "_setup", "Traceback ...", RuntimeError("timed out after 1800000ms"), "ray", 1, "10.0.0.2"
)
START = RayTaskError(
    "__init__", "Traceback ...\nError: no JSON", RuntimeError("no JSON"), "ray", 1, "10.0.0.1"
)
FULL = OSError(errno.ENOSPC, "No space left on device", "/s/run/checkpoint_manager_snapshot.json")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ControllerError(SETUP), r"^RuntimeError: timed out after 1800000ms$"),
        (
            ControllerError(FULL),
            r"no room for a checkpoint \(.*snapshot.json'\): the storage of /s .* is full",
        ),
        (
            ControllerError(OSError(errno.EACCES, "Permission denied", "/s")),
            r"^\[Errno 13\] Permission denied: '/s'$",
        ),
        (
            ActorDiedError(START),
            r"checkpoints in /s/run cannot be read \(.*no JSON\); restore that folder, or start over",
        ),
        (ActorDiedError(), r"Ray Train's controller died \(.*\); run the same command .* resume from /s$"),
    ],
    ids=["process group", "full disk", "another error of a disk", "damaged storage", "death"],
)
def test_errors_of_ray_trains_controller_are_explained(error, message):
    """Errors arrive pickled from the controller's process."""
    arrived = pickle.loads(pickle.dumps(error))
    assert re.search(message, str(_explained(arrived, "/s")))


@pytest.mark.parametrize(
    ("error", "restarts", "message"),
    [
        (UserError("no images"), False, "no images"),
        (LbaeError("training loss became nan"), False, "training loss became nan"),
        (FULL, False, "the storage of /s or a worker's temporary folder is full"),
        (OSError(errno.EACCES, "Permission denied", "/s"), False, "Permission denied: '/s'"),
        (TransientStorageError("s3://bucket/m cannot be read"), True, "s3://bucket/m cannot be read"),
        (OSError(errno.EIO, "Input/output error"), True, "Input/output error"),
        (RuntimeError("a peer left"), True, "RuntimeError: a peer left"),
    ],
    ids=repr,
)
def test_the_class_of_an_error_decides_whether_workers_are_restarted(error, restarts, message):
    failure = worker_failure(error, "/s")
    assert failure.retry_may_succeed == restarts
    assert message in str(failure)


@pytest.mark.slow
def test_an_unforeseen_error_of_a_worker_names_its_type_and_the_source(
    ray_session, tmp_path, digits, monkeypatch
):
    monkeypatch.setattr(restarts, "RESTARTS", 1)
    source = plan(str(digits))
    settings = Settings(
        config=presets.get("demo").replace(epochs=1),
        source=replace(source, shards=(replace(source.shards[0], columns=None),)),
        test=None,
        feed="resident",
        max_bad_fraction=0,
        board=str(tmp_path / "board"),
        checkpoint_s=600,
        meter=start_meter(),
    )
    worked_on = rf"\(while decoding images of {source.uri}, while training as worker 0\)"
    failed = "training workers failed 2 times without a new checkpoint in between; the last error"
    with pytest.raises(LbaeError, match=rf"^{failed}: \w+Error: .*NoneType.* {worked_on}\. Earlier"):
        trainer.run_workers(settings, trainer.scaling_of(1, None, "resident"), str(tmp_path / "s"), 1)


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (lambda run: (run / "checkpoint_manager_snapshot.json").write_bytes(b""), "Expecting value"),
        (lambda run: shutil.rmtree(next(run.glob("checkpoint_*/"))), "does not exist anymore"),
    ],
    ids=["empty snapshot", "lost checkpoint"],
)
@pytest.mark.slow
def test_a_damaged_storage_is_named(finished, tmp_path, damage, cause):
    storage = tmp_path / "s"
    shutil.copytree(finished["options"]["storage"], storage)
    damage(storage / "run")
    message = (
        rf"the checkpoints in {storage}/run cannot be read \(.*{cause}.*\); restore that folder, or"
        rf" start over: remove it"
    )
    with pytest.raises(LbaeError, match=message):
        train(**finished["options"] | {"out": str(tmp_path / "m"), "storage": str(storage)})


@pytest.mark.slow
def test_losses_are_equal_after_the_driver_is_killed_on_s3(s3, undisturbed, tmp_path, digits):
    """Jobs start their own local Ray, whose workers know the S3 server."""
    alone = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [
        sys.executable,
        "jobs/train.py",
        "--data",
        str(digits),
        "--out",
        f"{s3}/m",
        "--storage",
        f"{s3}/s",
        "--address",
        "local",
    ]
    command += [f"--{name}={value}" for name, value in SMALL.items()]
    first = subprocess.Popen(
        command, cwd=ROOT, env=alone, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    run = resolve(f"{s3}/s/run")
    when(
        lambda: run.exists() and any(name.endswith("state.pt") for name, _ in run.files()), first.kill
    ).join()
    assert first.wait() == -signal.SIGKILL
    resolve(f"{s3}/s.lock").remove()  # else the next job waits for the dead job's lock
    again = subprocess.run(
        command, cwd=ROOT, env=alone, capture_output=True, text=True, timeout=300, check=False
    )
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout.splitlines()[-1])["history"] == undisturbed
    assert load_network(f"{s3}/m")[2].kind == "model"
    board = [name for name, _ in resolve(f"{s3}/s/tensorboard").files()]
    assert len({name.rsplit(".", 1)[1] for name in board}) == 4, "event files of every epoch"


def test_a_storage_that_is_not_writable_is_named(ray_session, tmp_path, digits):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"/file/storage cannot be written: .*/file is not a folder"):
        train(data=str(digits), out=str(tmp_path / "m"), storage=str(tmp_path / "file" / "storage"), **SMALL)


@pytest.mark.slow
def test_a_full_disk_is_an_error_and_keeps_earlier_checkpoints(tmp_path, digits):
    """The storage is a 15 MB tmpfs in its own mount namespace, too small for two checkpoints."""
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
    script = (
        f"mount -t tmpfs -o size=15m disk {storage} && {shlex.join(job)}; code=$?; find {storage}; exit $code"
    )
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    error = done.stderr.splitlines()[-1]
    assert re.match(
        rf"error: no room for a checkpoint \(.*No space left.*\): the storage of {storage}/.* is full", error
    )
    assert "state.pt" in done.stdout


def checkpoints(storage: Path) -> int:
    return len(list(storage.glob("run/checkpoint_*/state.pt")))


def when(condition: Callable[[], object], act: Callable[[], object]) -> threading.Thread:
    """Start a thread that calls ``act`` once the condition holds, and gives up after five minutes."""

    def watch() -> None:
        until = time.monotonic() + 300
        while time.monotonic() < until:
            if condition():
                act()
                return
            time.sleep(0.05)
        raise TimeoutError("the condition never became true")

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def kill_a_worker() -> None:
    titles = {int(path.parent.name): path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")}
    workers = [pid for pid, title in titles.items() if b"RayTrainWorker" in title]
    os.kill(max(workers), signal.SIGKILL)


def workers_started() -> int:
    return len(list_actors(filters=[("class_name", "=", "RayTrainWorker")], limit=10_000))


@pytest.mark.slow
def test_more_workers_than_images_are_refused(ray_session, tmp_path, digits):
    cells = [cell["bytes"] for cell in pq.read_table(digits / "a.parquet")["image"].to_pylist()[:1]]
    image_table(tmp_path / "data.parquet", cells)
    with pytest.raises(UserError, match="1 training images are too few for 2 workers; lower --workers"):
        train(data=str(tmp_path / "data.parquet"), out=str(tmp_path / "m"), **{**SMALL, "workers": 2})


@pytest.mark.slow
def test_losses_are_equal_after_a_worker_is_killed(undisturbed, tmp_path, digits):
    storage = tmp_path / "s"
    killer = when(lambda: checkpoints(storage), kill_a_worker)
    result = train(data=str(digits), out=str(tmp_path / "m"), storage=str(storage), **SMALL)
    killer.join()
    assert result["history"] == undisturbed


@pytest.mark.slow
def test_an_interrupted_run_keeps_its_checkpoints_and_resumes(undisturbed, tmp_path, digits):
    options = {**SMALL, "data": str(digits), "out": str(tmp_path / "m")}
    heard = ["env", "--default-signal=INT"]  # background jobs of a shell, perhaps this run, ignore SIGINT
    job = [*heard, sys.executable, "jobs/train.py", *(f"--{name}={value}" for name, value in options.items())]
    first = subprocess.Popen(job, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    when(lambda: checkpoints(tmp_path / "m-checkpoints"), lambda: first.send_signal(signal.SIGINT)).join()
    _, err = first.communicate(timeout=120)
    assert (first.returncode, err.splitlines()[-1]) == (130, "error: interrupted")
    assert not (tmp_path / "m-checkpoints.lock").exists()
    assert checkpoints(tmp_path / "m-checkpoints")
    assert train(**options)["history"] == undisturbed


@pytest.mark.slow
def test_a_stream_trains_counts_bad_images_and_resumes_after_the_driver_is_killed(
    ray_session, tmp_path, digits
):
    cells = [cell["bytes"] for cell in pq.read_table(digits / "a.parquet")["image"].to_pylist()]
    cells[5], cells[30] = b"no image", None
    image_table(tmp_path / "data.parquet", cells)
    options = {
        "data": str(tmp_path / "data.parquet"),
        "preset": "demo",
        "epochs": 6,
        "batch_size": 32,
        "feed": "streaming",
    }
    options |= {"workers": 2, "max_bad_fraction": 0.1}

    whole = train(**options, out=str(tmp_path / "whole"))
    losses = [epoch["train_loss"] for epoch in whole["history"]]
    assert losses == sorted(losses, reverse=True)
    assert whole["bad"] == 2
    assert 270 < whole["images"] < 348  # the others are held out
    assert load_network(str(tmp_path / "whole"))[2].config["feed"] == "streaming"
    tags = events(tmp_path / "whole-checkpoints" / "tensorboard")
    assert {"train_loss", "validation_loss", "images_per_second", "learning_rate", "reconstructions"} <= tags
    assert {"bits/mean_abs", "bits/dead", "bits/entropy", "bits/redundancy"} <= tags

    command = [sys.executable, "jobs/train.py", "--out", str(tmp_path / "m")]
    command += [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    when(lambda: checkpoints(tmp_path / "m-checkpoints"), first.kill).join()
    assert first.wait() == -signal.SIGKILL
    (tmp_path / "m-checkpoints.lock").unlink()  # else the next job waits for the dead job's lock
    continued = train(**options, out=str(tmp_path / "m"))["history"]
    assert [epoch["number"] for epoch in continued] == [1, 2, 3, 4, 5, 6]
    for name in ("train_loss", "validation_loss"):
        assert continued[-1][name] == pytest.approx(whole["history"][-1][name], rel=0.01)


def after_the_death_of_a_node(data: Path, out: Path, **options: int) -> list[dict]:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | QUICK_DEATH
    # How long Ray Train waits for the lost node before it continues with the others; by default 60 seconds.
    environment["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "5"
    command = [
        sys.executable,
        "-m",
        "tests.distributed.dying_node",
        str(data),
        str(out),
        json.dumps({**SMALL, **options}),
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert facts["killed"]
    return facts["history"]


@pytest.mark.slow
def test_losses_are_equal_after_a_node_is_killed(undisturbed, tmp_path, digits):
    assert after_the_death_of_a_node(digits, tmp_path) == undisturbed


@pytest.mark.slow
def test_training_continues_with_the_remaining_workers(undisturbed, tmp_path, digits):
    history = after_the_death_of_a_node(digits, tmp_path, min_workers=1)
    assert [epoch["number"] for epoch in history] == [1, 2, 3, 4]
    assert history[-1]["train_loss"] < 1.5 * undisturbed[-1]["train_loss"]


@pytest.mark.slow
def test_a_diverging_loss_names_step_and_batch_and_is_not_retried(ray_session, tmp_path, digits):
    before = workers_started()
    options = {
        "data": str(digits),
        "out": str(tmp_path / "m"),
        **SMALL,
        "bottleneck": "gaussian",
        "learning_rate": 0.9,
    }
    with pytest.raises(
        LbaeError, match=r"training loss became (nan|inf) in step \d+, batch \d+ of 4 of epoch \d"
    ) as error:
        train(**options)
    assert error.value.exit_code == 1
    assert workers_started() == before + SMALL["workers"]
    assert not (tmp_path / "m" / "manifest.json").exists()
    epoch = int(re.search(r"of epoch (\d)", str(error.value))[1])
    assert checkpoints(tmp_path / "m-checkpoints") == min(epoch - 1, 2), "the newest and the best"


@pytest.mark.parametrize("feed", ["resident", "streaming"])
@pytest.mark.slow
def test_too_many_bad_images_fail_the_run(ray_session, tmp_path, digits, feed):
    cells = [cell["bytes"] for cell in pq.read_table(digits / "a.parquet")["image"].to_pylist()[:100]]
    cells[3:6] = [b"", None, cells[3][:30]]
    image_table(tmp_path / "data.parquet", cells)
    some = "3" if feed == "resident" else "[23]"  # Ray Data may drop a row to give both workers equally many
    with pytest.raises(
        LbaeError, match=rf"{some} of 100 images of .* could not be decoded, more than the allowed share of"
    ):
        train(data=str(tmp_path / "data.parquet"), out=str(tmp_path / "m"), feed=feed, batch_size=32, **SMALL)


@pytest.mark.slow
def test_a_baseline_trains_on_images_of_mixed_modes_and_sizes(ray_session, tmp_path, folder_of_images):
    """The baseline is refused where bits are needed."""
    with Image.open(next(folder_of_images.rglob("*.png"))) as image:
        for mode in ("L", "RGBA", "P", "CMYK"):
            folder = tmp_path / "images" / mode
            folder.mkdir(parents=True)
            for size in range(20, 26):
                image.convert(mode).resize((size, 70 - size)).save(
                    folder / f"{size}.{'tiff' if mode == 'CMYK' else 'png'}"
                )
    out = str(tmp_path / "m")
    options = {"preset": "demo", "epochs": 1, "workers": 2, "batch_size": 8, "bottleneck": "continuous"}
    result = train(data=str(tmp_path / "images"), out=out, **options)
    assert result["bad"] == 0
    assert 0 < result["images"] <= 24
    with pytest.raises(UserError, match="is a continuous baseline, which has no binary latents"):
        load_network(out)
