"""Every bash and Python block of the README and the guides, run as written.

Only folders, addresses, the port and the number of epochs differ. Blocks named ``console`` need a cloud or
minutes; their options are checked, and they are not run.
"""

import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest

from lbae.cli import JOBS, load_job
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.pipeline_file import read_pipeline
from lbae.jobs.arguments import from_values, from_words
from tests.bundles import untrained_bundle
from tests.conftest import ROOT, SAMPLE, Pipeline, picture_size, readme_blocks, run_readme, service
from tests.hub_server import WRITER, running_hub
from tests.mlflow_server import mlflow_server

BLOCKS = {  # bash and Python blocks per page, all of which are run below
    "README.md": (4, 1),
    "docs/index.md": (0, 0),
    "docs/quickstart.md": (1, 1),
    "docs/guides/clusters.md": (1, 0),
    "docs/guides/edits.md": (3, 1),
    "docs/guides/evaluation.md": (2, 1),
    "docs/guides/hub.md": (2, 1),
    "docs/guides/large-corpora.md": (6, 0),
    "docs/guides/own-images.md": (2, 0),
    "docs/guides/priors.md": (2, 1),
    "docs/guides/serving.md": (3, 2),
    "docs/guides/vectors.md": (1, 5),
    "docs/guides/tracking.md": (2, 0),
}
PORT = "18124"


def guide(name: str) -> str:
    return f"docs/guides/{name}.md"


def run_python(block: str, out: Path) -> dict:
    names: dict = {}
    exec(re.sub("runs/(mine|demo)", str(out), block), names)
    return names


@pytest.fixture
def made(pipeline: Pipeline, tmp_path: Path) -> Path:
    """A folder with links to the pipeline's artifacts, and room for others."""
    for name in ("model", "latents", "moments", "bundle"):
        (tmp_path / name).symlink_to(pipeline.out / name)
    return tmp_path


def test_every_block_is_run_here():
    pages = {"README.md", "docs/index.md", "docs/quickstart.md"}
    pages |= {guide(path.stem) for path in (ROOT / "docs" / "guides").glob("*.md")}
    counts = {p: tuple(len(readme_blocks(kind, p)) for kind in ("bash", "python")) for p in pages}
    assert counts == BLOCKS


def test_an_own_folder_of_images(job, digits, tmp_path):
    run_readme(readme_blocks("bash")[0].replace("--epochs 12", "--epochs 1"), tmp_path, digits)
    assert picture_size(tmp_path / "samples.png") == (8 * 58 + 2,) * 2
    assert picture_size(tmp_path / "edited.png") == (118, 60)
    assert picture_size(tmp_path / "path.webp") == (112, 112)


def test_python(pipeline):
    (block,) = readme_blocks("python")
    names = run_python(block, pipeline.out)
    assert names["path"].shape == (10, 28, 28, 1)
    assert names["latents"].shape == (16, 128)


def test_quickstart(pipeline, made):
    page = "docs/quickstart.md"
    run_readme(readme_blocks("bash", page)[0], made, pipeline.data)
    assert picture_size(made / "sevens.png") == (4 * 58 + 2,) * 2
    assert picture_size(made / "strip.png") == (10 * 58 + 2, 60)
    (block,) = readme_blocks("python", page)
    names = run_python(block, made)
    assert names["reconstructions"].shape == names["images"].shape


def test_own_images(pipeline, made):
    stages, looks = readme_blocks("bash", guide("own-images"))
    done = run_readme(stages, pipeline.out, pipeline.data)
    assert [one.get("already") for one in done] == [True] * 4, "the options are those of the README"
    run_readme(looks, made, pipeline.data)
    assert picture_size(made / "reconstructions.png") == (16 * 58 + 2, 4 * 58 + 2)
    assert read_manifest(str(made / "samples")).rows == 1000


def test_the_pipeline_file_is_understood(tmp_path):
    (block,) = readme_blocks("toml", guide("own-images"))
    (tmp_path / "faces.toml").write_text(block)
    asked = read_pipeline(str(tmp_path / "faces.toml"), JOBS)
    for name in asked.keys() & JOBS.keys():
        job = load_job(JOBS[name])
        needed = {p.name: "x" for p in inspect.signature(job).parameters.values() if p.default is p.empty}
        from_values(job, needed | asked[name], name)


@pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")  # of huggingface_hub's uploads
def test_hub(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "tests" / "golden" / "v1" / "bundle", tmp_path / "bundle")
    pushes, reads = readme_blocks("bash", guide("hub"))
    (block,) = readme_blocks("python", guide("hub"))
    monkeypatch.chdir(tmp_path)
    with running_hub(monkeypatch, str(tmp_path / "cache")):
        monkeypatch.setenv("HF_TOKEN", WRITER)
        (pushed,) = run_readme(pushes, tmp_path, SAMPLE)
        shown, _ = run_readme(reads, tmp_path, SAMPLE)
        run_python(block, tmp_path)
    assert shown["fingerprint"] == pushed["fingerprint"]
    assert picture_size(tmp_path / "samples.png") == (8 * 34 + 2,) * 2
    assert picture_size(tmp_path / "sample.png") == (16, 16)


@pytest.mark.slow
def test_tracking(job, pipeline, tmp_path, monkeypatch):
    """On a finished training, whose events are tracked all the same."""
    from mlflow import MlflowClient

    for name, value in {"DISABLE_TELEMETRY": "true", "EXPERIMENT_NAME": "guide"}.items():
        monkeypatch.setenv(f"MLFLOW_{name}", value)
    for name, value in {"MODE": "offline", "DIR": str(tmp_path), "ERROR_REPORTING": "false"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    to_mlflow, to_wandb = readme_blocks("bash", guide("tracking"))
    with mlflow_server(tmp_path) as uri:
        to_server = to_mlflow.replace("http://127.0.0.1:5000", uri)
        assert [one["already"] for one in run_readme(to_server, pipeline.out, pipeline.data)] == [True]
        client = MlflowClient(tracking_uri=uri)
        (run,) = client.search_runs([client.get_experiment_by_name("guide").experiment_id])
    assert run.data.metrics["epoch"] == 12
    run_readme(to_wandb, pipeline.out, pipeline.data)
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 1


@pytest.mark.slow
def test_large_corpora(pipeline, tmp_path):
    ingest, small, append, search, indexed, several = readme_blocks("bash", guide("large-corpora"))
    images, more = tmp_path / "digits", tmp_path / "others"
    shutil.copytree(pipeline.data, images)
    more.mkdir()
    others = pq.read_table(SAMPLE / "part-00001.parquet").slice(0, 600)
    pq.write_table(others.slice(0, 200), images / "c.parquet")
    pq.write_table(others.slice(200), more / "a.parquet")
    for name in ("model", "latents", "moments"):
        shutil.copytree(pipeline.out / name, tmp_path / name)
    table, _ = run_readme(ingest, tmp_path, images)
    assert (table["rows"], table["equal"]) == (800, 0)
    assert run_readme(small, tmp_path, images)[0]["rows"] == 800
    appended, sums, bundle = run_readme(append, tmp_path, images)
    assert (appended["rows"], appended["known_rows"], sums["rows"], bundle["rows"]) == (800, 600, 800, 800)
    (found,) = run_readme(search, pipeline.out, pipeline.data)
    assert len(found["hits"]) == 20
    index, by_index = run_readme(indexed, tmp_path, images)
    assert (index["rows"], by_index["probes"], len(by_index["hits"])) == (800, 16, 20)
    *_, drift, added, bundle, found = run_readme(several, tmp_path, images, MORE=more)
    assert (drift["rows"], added["rows"], bundle["rows"], found["rows"]) == ([800, 400], 1200, 1200, 1200)


def test_vectors(tmp_path):
    shutil.copytree(ROOT / "tests" / "golden" / "v1", tmp_path, dirs_exist_ok=True)
    run_readme(readme_blocks("bash", guide("vectors"))[0], tmp_path, SAMPLE)
    names = run_python("\n".join(readme_blocks("python", guide("vectors"))), tmp_path)
    size, keys = names["size"], names["keys"]["key"].to_pylist()
    sought = names["distances"][0].tolist()
    assert names["bits"][names["nearest"]].tolist() == sought
    assert names["hits"]["_distance"].to_pylist() == names["fast"]["_distance"].to_pylist() == sought
    assert [keys[row] for row in names["rows"][1]] == names["found"][1]["key"].to_pylist()
    asked = names["bundle"].encode(names["images"])[0]
    assert [(asked != latent).sum() for latent in names["latents"]] == sought
    assert (size, names["found"][0].column_names) == (11, ["key", "label"])


def test_priors(pipeline, made):
    draws, fits = readme_blocks("bash", guide("priors"))
    everything, sevens, others, typical = run_readme(draws, made, pipeline.data)
    assert everything["acceptance"] == 1
    assert typical["temperature"] == 0.7
    assert sevens["acceptance"] < others["acceptance"] < 1
    by_label, _ = run_readme(fits, made, pipeline.data)
    assert by_label["components"] == 10
    (block,) = readme_blocks("python", guide("priors"))
    assert run_python(block, made)["last"]["components"] >= 1


def test_edits(pipeline, made):
    edits, variations, paths = readme_blocks("bash", guide("edits"))
    _, whole, half, sure, bits = run_readme(edits, made, pipeline.data)
    assert whole["bits_changed"] > 0
    assert {"strength", "confidence"} <= set(sure)
    assert (half["method"], bits["method"]) == ("exchange", "bits")
    assert picture_size(made / "edited.png") == (118, 60)
    (varied,) = run_readme(variations, made, pipeline.data)
    assert (varied["num"], varied["strength"]) == (8, 0.3)
    strip, path = run_readme(paths, made, pipeline.data)
    assert (strip["frames"], path["frames"]) == (10, 23)
    (block,) = readme_blocks("python", guide("edits"))
    assert run_python(block, made)["edited"].shape == (8, 28, 28, 1)


@pytest.mark.slow
def test_blocks_run_in_a_shell(made):
    (made / "strip.png").unlink(missing_ok=True)
    block = readme_blocks("bash", guide("edits"))[2]
    variables = {**os.environ, "OUT": str(made)}
    subprocess.run(
        ["bash", "-euc", block], cwd=ROOT, env=variables, capture_output=True, timeout=200, check=True
    )
    assert picture_size(made / "strip.png") == (10 * 58 + 2, 60)


@pytest.mark.slow
def test_evaluation(pipeline, made, monkeypatch):
    scores, losses = readme_blocks("bash", guide("evaluation"))
    monkeypatch.setenv("LBAE_CACHE", str(made / "cache"))
    (made / "test").mkdir()
    pq.write_table(pq.read_table(SAMPLE / "part-00001.parquet").slice(0, 300), made / "test" / "a.parquet")
    run_readme(scores, made, pipeline.data, TEST=made / "test")
    (block,) = readme_blocks("python", guide("evaluation"))
    assert {"mixture", "paper", "reconstructions"} <= run_python(block, made)["report"]["distances"].keys()
    run_readme(losses, made, pipeline.data)
    assert (made / "losses.png").exists()


@pytest.mark.slow
def test_serving(pipeline, tmp_path, monkeypatch):
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    serve, curls, swap = readme_blocks("bash", guide("serving"))
    _, own_serve, own_curls, _ = readme_blocks("bash")
    arguments, same = (shlex.split(block, comments=True) for block in (serve, own_serve))
    assert arguments == same
    other = untrained_bundle(pipeline, tmp_path)
    arguments = [word.replace("$OUT", str(pipeline.out)).replace("8000", PORT) for word in arguments[2:]]
    with service(*arguments) as facts:
        encoded = in_shell(own_curls, tmp_path) + in_shell(curls, tmp_path)
        names: dict = {}
        for block in readme_blocks("python", guide("serving")):
            exec(block.replace("8000", PORT), names)
        swapped = in_shell(swap, ROOT, OTHER=other, ADDRESS=facts["address"])
        assert json.loads(swapped) == {
            "bundle": read_manifest(other).fingerprint,
            "before": facts["bundle"],
        }
        assert httpx.get(f"{facts['url']}/readyz").headers["x-bundle"] == read_manifest(other).fingerprint
    assert picture_size(tmp_path / "samples.png") == (4 * 58 + 2,) * 2
    assert picture_size(tmp_path / "path.webp") == (112, 112)
    assert picture_size(tmp_path / "edited.png") == (28, 28)
    assert [len(result["hex"]) for result in json.loads(encoded)["results"]] == [32, 32]
    assert names["grid"].startswith(b"\x89PNG")
    assert names["frames"].startswith(b"RIFF")
    assert [image[:4] for image in names["sevens"]] == [b"\x89PNG"] * 2


def in_shell(block: str, folder: Path, **variables: str) -> str:
    """Run a block with the test's port; return what it printed."""
    script = block.replace("8000", PORT).replace("curl ", "curl -sS --fail ")
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_cluster_guide_begins_as_the_readme():
    assert readme_blocks("bash", guide("clusters")) == readme_blocks("bash")[-1:]  # run by test_submit.py


def jobs_of(page: str) -> Iterator[tuple[str, list[str]]]:
    """The jobs in the code blocks of a page, by name, and their arguments."""
    for block in readme_blocks("bash", page) + readme_blocks("console", page):
        for line in block.splitlines():
            if found := re.search(r"(?:\blbae |python jobs/)(\w+)(?:\.py)?(.*)", line):
                yield found[1], shlex.split(found[2], comments=True)


@pytest.mark.parametrize("page", BLOCKS)
def test_jobs_know_the_options_that_pages_show(page):
    for name, arguments in jobs_of(page):
        job = load_job(JOBS[name])
        if isinstance(job, dict):
            job, arguments = job[arguments[0]], arguments[1:]
        from_words(job, arguments)


def test_every_job_is_in_the_pages():
    texts = "\n".join((ROOT / page).read_text() for page in BLOCKS)
    assert {name for name in JOBS if not re.search(rf"\b(lbae|make) {name}\b", texts)} == set()


@pytest.mark.parametrize("page", BLOCKS)
def test_links_and_named_files_exist(page):
    text = (ROOT / page).read_text()
    links = {link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link}
    assert {link for link in links if not ((ROOT / page).parent / link).exists()} == set()
    named = set(re.findall(r"(?<![\w/.-])(?:docs|jobs|lbae|cluster|tests)/[\w/.-]+\.\w+", text))
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 110
