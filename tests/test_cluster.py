"""A pipeline on clusters whose nodes share only a bucket; nodes and a head die while it runs."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.cluster_utils import Cluster

from lbae.core.moments.moment_accumulator import sum_packed
from lbae.io.artifacts.bundle_artifact import read_pointer
from lbae.io.artifacts.latent_table import open_latent_table, packed_latents
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.artifacts.moments_artifact import load_moments
from lbae.io.storage.location import resolve
from lbae.report.evaluation.streams import RECONSTRUCTIONS
from tests.conftest import QUICK_DEATH, ROOT, SAMPLE, SECRET, run_job, service

STAGES = ("model", "latents", "moments", "bundle", "evaluation")
FILES, ROWS = 16, 50
OUT = "s3://bucket/run"
PIPELINE = f"""
data = "s3://bucket/digits"
out = "{OUT}"
current = "s3://bucket/current"
[train]
preset = "demo"
epochs = 2
workers = 2
batch_size = 64
seed = 3
[encode]
keep_images = true
[fit]
components = 4
examples = 3
[evaluate]
data = "s3://bucket/test"
priors = "mixture"
metrics = "kernel"
"""

# How long a job waits for a lost head, by default a minute.
_SHORT_WAIT = {"RAY_gcs_rpc_server_reconnect_timeout_s": "3"}

pytestmark = pytest.mark.slow


@pytest.fixture
def bucket(s3: str) -> str:
    """A bucket with digits as training and test images, and the file of the pipeline."""
    rows = pq.read_table(SAMPLE).slice(0, (FILES + 2) * ROWS)
    for file in range(FILES + 2):
        some = rows.slice(file * ROWS, ROWS)
        name = f"{'digits' if file < FILES else 'test'}/{file:02d}.parquet"
        sink = pa.BufferOutputStream()
        pq.write_table(some, sink)
        resolve(f"{s3}/{name}").write_bytes(sink.getvalue().to_pybytes())
    resolve(f"{s3}/pipeline.toml").write_bytes(PIPELINE.encode())
    return s3


class Machines:
    """A cluster; each of its nodes has one CPU and its own temporary folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        self._cluster = Cluster()
        # Ports that no other Ray on this machine uses.
        self.head = self.add(include_dashboard=False, dashboard_port=8367, dashboard_agent_listen_port=0)
        self.address = self._cluster.address

    def add(self, **options: Any) -> Any:
        """Start a node."""
        own = self._folder / f"node-{self._count}"
        own.mkdir(parents=True)
        self._count += 1
        return self._cluster.add_node(
            num_cpus=1, object_store_memory=2**28, env_vars={"TMPDIR": str(own)}, **options
        )

    def kill(self, node: Any) -> None:
        """Kill a node without warning, as a power failure does."""
        if node is self.head:
            node.kill_all_processes(check_alive=False, allow_graceful=False)
        else:
            self._cluster.remove_node(node, allow_graceful=False)

    def job(self, *command: object) -> subprocess.Popen[str]:
        """Start a job on the cluster; it cuts latent tables into small parts."""
        return subprocess.Popen(
            [sys.executable, "-m", "tests.small_parts", *map(str, command), "--address", self.address],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | _SHORT_WAIT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def jobs(self, *commands: tuple[str, ...]) -> list[dict[str, Any]]:
        """Run jobs one after another by ``run_job`` in one other process; return the JSON that they print."""
        script = (
            "import json, sys; from tests.conftest import run_job;"
            " [print(json.dumps(vars(run_job(*command)))) for command in json.loads(sys.argv[1])]"
        )
        asked = json.dumps([[*command, "--address", self.address] for command in commands])
        done = subprocess.run(
            [sys.executable, "-c", script, asked], cwd=ROOT, capture_output=True, text=True, timeout=400
        )
        assert done.returncode == 0, done.stderr
        outcomes = [json.loads(line) for line in done.stdout.splitlines()]
        assert [outcome["code"] for outcome in outcomes] == [0] * len(commands), outcomes
        return [json.loads(outcome["out"].splitlines()[-1]) for outcome in outcomes]

    def shut_down(self) -> None:
        """Stop all nodes."""
        self._cluster.shutdown()


@pytest.fixture
def machines(tmp_path: Path, bucket: str) -> Iterator[Callable[[], Machines]]:
    """A function that starts a cluster with access to the bucket; all are stopped after the test."""
    started: list[Machines] = []

    def start() -> Machines:
        started.append(Machines(tmp_path / f"cluster-{len(started)}"))
        return started[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        for name, value in QUICK_DEATH.items():
            patch.setenv(name, value)
        yield start
    for cluster in started:
        cluster.shut_down()


def ended(process: subprocess.Popen[str], seconds: float = 600) -> dict[str, Any]:
    """Wait for a job that must succeed and return the JSON that it prints."""
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, err
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def parts() -> int:
    """The number of parts that the pipeline has encoded."""
    data = resolve(OUT) / "latents" / "data"
    return len(data.names()) if data.exists() else 0


def encoding(process: subprocess.Popen[str]) -> None:
    """Wait until a process has encoded two more parts."""
    before = parts()
    while parts() < before + 2:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.2)


def check_sums(files: Iterable[int] = range(FILES)) -> None:
    """Check that every image of these files has one latent, and that the sums are those of the latents."""
    table = open_latent_table(f"{OUT}/latents")
    rows = pa.concat_tables(table.read(part) for part in table.parts)
    keys = sorted(f"{file:02d}.parquet:{row}" for file in files for row in range(ROWS))
    assert sorted(rows["key"].to_pylist()) == keys
    sums, _ = load_moments(f"{OUT}/moments")
    present = np.array(rows["label"].to_pylist())[:, None] == np.arange(10)
    oracle = sum_packed(packed_latents(rows), table.latent_dim, sums.attributes, present, ~present)
    np.testing.assert_array_equal(sums.sums, oracle.sums)


def test_the_pipeline_survives_the_loss_of_a_head_and_of_a_node_and_its_bundle_is_served(machines, bucket):
    first = machines()
    first.add()
    begun = first.job("pipeline", "--config", f"{bucket}/pipeline.toml")
    encoding(begun)
    first.kill(first.head)
    _, err = begun.communicate(timeout=300)
    assert begun.returncode not in (0, None), err
    for name in ("pipeline", "latents"):  # Ray has killed the job, and its locks would have to expire
        resolve(f"{OUT}/{name}.lock").remove()

    cluster = machines()
    doomed, _ = cluster.add(), cluster.add()
    pipeline = cluster.job("pipeline", "--config", f"{bucket}/pipeline.toml")
    encoding(pipeline)
    cluster.kill(doomed)
    cluster.add()
    result = ended(pipeline)
    assert (result["out"], result["bundle"]) == (OUT, f"{OUT}/bundle")
    assert list(result["stages"]) == ["train", "encode", "reduce", "fit", "evaluate"]
    assert [name for name, stage in result["stages"].items() if stage.get("already")] == ["train"]
    assert read_pointer(f"{bucket}/current") == f"{OUT}/bundle"
    assert read_manifest(f"{OUT}/latents").config["keep_images"]
    check_sums()
    report = json.loads(resolve(f"{OUT}/evaluation/report.json").read_bytes())
    assert (report["images"][RECONSTRUCTIONS], "mixture" in report["distances"]) == (2 * ROWS, True)

    made = [read_manifest(f"{OUT}/{name}").created for name in STAGES]
    again = ended(cluster.job("pipeline", "--config", f"{bucket}/pipeline.toml"))
    assert again["already"]
    assert again["stages"]["encode"] == {**result["stages"]["encode"], "already": True}
    assert [read_manifest(f"{OUT}/{name}").created for name in STAGES] == made

    digit, images, model, latents, sums, bundle = (
        f"{bucket}/{name}"
        for name in ("digit.png", "digits", "run/model", "run/latents", "run/moments", "run/bundle")
    )
    resolve(digit).write_bytes((ROOT / "docs" / "images" / "seven.png").read_bytes())
    for name, *options in (
        ("sample", "--bundle", bundle, "--out", f"{bucket}/samples.png"),
        (
            "interpolate",
            "--bundle",
            bundle,
            "--source",
            digit,
            "--target",
            digit,
            "--out",
            f"{bucket}/strip.png",
        ),
        ("edit", "--bundle", bundle, "--image", digit, "--set", "label=7", "--out", f"{bucket}/edited.png"),
        (
            "reconstruct",
            "--bundle",
            bundle,
            "--data",
            f"{bucket}/test",
            "--out",
            f"{bucket}/reconstructed.png",
        ),
        ("show", latents, "--picture", f"{bucket}/latents.png"),
        ("moments", "drift", sums, sums, "--out", f"{bucket}/drift.png"),
        ("moments", "add", sums, sums, "--force", "--out", f"{bucket}/twice"),
        ("moments", "subtract", f"{bucket}/twice", sums, "--out", f"{bucket}/once"),
        ("losses", "--models", model, "--out", f"{bucket}/losses.png"),
        ("export", "--model", model, "--out", f"{bucket}/exported"),
    ):
        done = run_job(name, *options)  # none of them needs Ray
        assert done.code == 0, done.err
    np.testing.assert_array_equal(load_moments(f"{bucket}/once")[0].sums, load_moments(sums)[0].sums)

    for file in ("90.parquet", "91.parquet"):
        (resolve(images) / file).write_bytes((resolve(images) / "00.parquet").read_bytes())
    table, drawn, found, grown, updated, health = cluster.jobs(
        ("ingest", "--source", images, "--out", f"{bucket}/table", "--distinct"),
        ("sample", "--bundle", bundle, "--num", "300", "--out", f"{bucket}/samples"),
        ("search", "--latents", latents, "--image", digit, "--out", f"{bucket}/hits.png"),
        ("encode", "--model", model, "--data", images, "--out", latents, "--keep-images", "--append"),
        ("reduce", "--latents", latents, "--out", sums, "--update"),
        ("doctor", "--storage", bucket),
    )
    assert [job["rows"] for job in (table, drawn, grown, updated)] == [
        FILES * ROWS,
        300,
        *[(FILES + 2) * ROWS] * 2,
    ]
    assert len(found["hits"]) == 20
    assert health["ok"]
    check_sums([*range(FILES), 90, 91])

    logs = Path(cluster.head.get_logs_dir_path())
    texts = [path.read_bytes() for path in logs.rglob("*") if path.is_file()]
    texts += [
        (resolve(bucket) / name).read_bytes()
        for name, _ in resolve(bucket).files()
        if name.endswith((".json", ".html"))
    ]
    assert len(texts) > 20
    assert not [text for text in texts if SECRET.encode() in text]

    with service("--follow", f"{bucket}/current", "--port", "18130", "--address", cluster.address) as serving:
        answer = httpx.post(f"{serving['url']}/v1/sample", json={"n": 4, "seed": 1}, timeout=60)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
