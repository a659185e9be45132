"""Every command of the README, run as it stands there; only the folder of images, the output folder and the
port differ.
"""

import json
import os
import re
import shlex
import subprocess

import httpx
import numpy as np
import pytest

from lbae.core.latents.packing import unpack
from lbae.io.artifacts.latent_table import packed_latents
from lbae.io.artifacts.manifest import read_manifest
from tests.bundles import untrained_bundle
from tests.conftest import ROOT, picture_size, readme_blocks, run_readme, service

BASH, PYTHON = readme_blocks("bash"), readme_blocks("python")
README = (ROOT / "README.md").read_text()
PORT = "18124"


def test_there_are_the_blocks_that_are_run_here():
    firsts = [block.strip().splitlines()[0].split()[:2] for block in BASH]
    assert [first[-1] for first in firsts] == [
        ".venv/bin/activate",
        "jobs/interpolate.py",
        "jobs/serve.py",
        "-o",
        "get-auth-token",
    ]
    assert len(PYTHON) == 4


def test_an_own_folder_of_images(job, digits, tmp_path):
    made = tmp_path
    run_readme(BASH[0].replace("--epochs 12", "--epochs 1"), made, digits)
    assert picture_size(made / "samples.png") == (8 * 58 + 2,) * 2
    assert picture_size(made / "reconstructions.png") == (16 * 58 + 2, 4 * 58 + 2)
    assert (made / "samples" / "manifest.json").exists()


def test_interpolation_and_editing(pipeline):
    run_readme(BASH[1], pipeline.out, pipeline.data)
    assert picture_size(pipeline.out / "strip.png") == (10 * 58 + 2, 60)
    assert picture_size(pipeline.out / "edited.png") == (118, 60)


@pytest.mark.slow
def test_so_they_do_in_a_shell(pipeline, tmp_path):
    for name in ("model", "latents", "bundle"):
        (tmp_path / name).symlink_to(pipeline.out / name)
    variables = {**os.environ, "OUT": str(tmp_path), "IMAGES": str(pipeline.data)}
    subprocess.run(
        ["bash", "-euc", BASH[1]], cwd=ROOT, env=variables, capture_output=True, timeout=200, check=True
    )
    assert picture_size(tmp_path / "edited.png") == (118, 60)


def test_python(pipeline):
    names: dict = {}
    exec(PYTHON[2].replace("runs/mine", str(pipeline.out)), names)
    assert names["reconstructions"].shape == names["images"].shape
    assert names["path"].shape == (10, 28, 28, 1)
    assert names["latents"].shape == (16, 128)
    exec(PYTHON[3].replace("runs/mine", str(pipeline.out)), names)
    np.testing.assert_array_equal(
        2 * names["bits"].astype(int) - 1, unpack(packed_latents(names["table"]), 128)
    )


@pytest.mark.slow
def test_serving(pipeline, tmp_path, monkeypatch):
    serve, curl = BASH[2].strip().splitlines()
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    other = untrained_bundle(pipeline, tmp_path)
    with service(*shlex.split(serve.replace("$OUT", str(pipeline.out)).replace("8000", PORT))[2:]) as facts:
        script = "\n".join([curl, BASH[3]]).replace("8000", PORT).replace("curl ", "curl -sS --fail ")
        done = subprocess.run(
            ["bash", "-euc", script], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        names: dict = {}
        exec(PYTHON[0].replace("8000", PORT), names)
        exec(PYTHON[1].replace("8000", PORT), names)
        (swap,) = re.findall(r"`(RAY_AUTH_MODE=token python jobs/serve.py [^`]*)`", README)
        swap = swap.replace("OTHER", other).replace("ADDRESS", facts["address"])
        swapped = subprocess.run(
            ["bash", "-euc", swap], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
        assert swapped.returncode == 0, swapped.stderr
        assert json.loads(swapped.stdout) == {
            "bundle": read_manifest(other).fingerprint,
            "before": facts["bundle"],
        }
        assert httpx.get(f"{facts['url']}/readyz").json()["bundle"] == read_manifest(other).fingerprint
    assert picture_size(tmp_path / "samples.png") == (4 * 58 + 2,) * 2
    assert picture_size(tmp_path / "path.webp") == (112, 112)
    assert picture_size(tmp_path / "edited.png") == (28, 28)
    assert [len(result["hex"]) for result in json.loads(done.stdout)["results"]] == [32, 32]
    assert names["grid"].startswith(b"\x89PNG")
    assert names["frames"].startswith(b"RIFF")
    assert [image[:4] for image in names["sevens"]] == [b"\x89PNG"] * 2


def test_every_job_is_in_the_readme():
    assert {path.name for path in (ROOT / "jobs").glob("*.py")} <= set(re.findall(r"\w+\.py", README))


def test_every_file_it_names_exists():
    named = set(re.findall(r"(?:docs|jobs|lbae)/[\w/.]+\.\w+", README))
    assert {name for name in named if not (ROOT / name).exists()} == set()
