"""Every command of the README, run as it stands there; only the folder of images, the output folder and the port differ."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.conftest import picture_size

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BASH = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
PORT = "18124"


def run(script: str, address: str, out: Path, images: Path) -> subprocess.CompletedProcess[str]:
    script = re.sub(r"IMAGES=\S+", f"IMAGES={images}", script)
    script = re.sub(r"OUT=\S+", "", script).replace("source .venv/bin/activate", "")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OUT": str(out),
        "RAY_ADDRESS": address,
    }
    command = ["bash", "-euo", "pipefail", "-c", script]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False)


@pytest.fixture(scope="module")
def made(ray_session, digits, tmp_path_factory) -> Path:
    """The output folder after the first block."""
    out = tmp_path_factory.mktemp("readme")
    done = run(BASH[0], ray_session, out, digits)
    assert done.returncode == 0, done.stderr
    return out


def test_there_are_the_blocks_that_are_run_here():
    firsts = [block.strip().splitlines()[0].split()[:2] for block in BASH]
    assert [first[-1] for first in firsts] == [".venv/bin/activate", "jobs/interpolate.py", "jobs/serve.py", "start"]
    assert len(PYTHON) == 1


def test_an_own_folder_of_images(made):
    assert picture_size(made / "samples.png") == (8 * 58 + 2,) * 2
    assert picture_size(made / "reconstructions.png") == (16 * 58 + 2, 4 * 58 + 2)
    assert (made / "samples" / "manifest.json").exists()


def test_interpolation_and_editing(made, ray_session, digits):
    done = run(BASH[1], ray_session, made, digits)
    assert done.returncode == 0, done.stderr
    assert picture_size(made / "strip.png") == (10 * 58 + 2, 60)
    assert picture_size(made / "edited.png") == (118, 60)


def test_python(made, monkeypatch):
    names: dict = {}
    exec(PYTHON[0].replace("runs/mine", str(made)), names)
    assert names["path"].shape == (10, 28, 28, 1)
    assert names["latents"].shape == (16, 128)


def test_serving(made, ray_session):
    serve, curl = BASH[2].strip().splitlines()
    command = [sys.executable, *shlex.split(serve.replace("$OUT", str(made)).replace("8000", PORT))[1:]]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline().startswith('{"url"')
        words = shlex.split(curl)
        header = dict([words[words.index("-H") + 1].split(": ")])
        body = words[words.index("-d") + 1]
        answer = httpx.post(words[-1].replace("8000", PORT), content=body, headers=header, timeout=60)
        assert answer.status_code == 200
        assert answer.content.startswith(b"\x89PNG")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_every_job_is_in_the_readme():
    assert {path.name for path in (ROOT / "jobs").glob("*.py")} <= set(re.findall(r"\w+\.py", README))


def test_every_file_it_names_exists():
    named = set(re.findall(r"(?:docs|jobs|lbae)/[\w/.]+\.\w+", README))
    assert {name for name in named if not (ROOT / name).exists()} == set()
