"""The command from a built wheel, with the packages of this environment but without the checkout."""

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from lbae.cli import JOBS
from tests.conftest import ROOT

UV = Path(sys.executable).parent / "uv"
LOCAL = ("--address", "local")  # workers of the tests' Ray would import the checkout instead


@pytest.fixture(scope="module")
def lbae(tmp_path_factory) -> Callable[..., subprocess.Popen[str]]:
    """Start the installed command in its own folder."""
    folder = tmp_path_factory.mktemp("installed")
    build = [UV, "build", "--offline", "--wheel", "--no-build-isolation", "--python", sys.executable]
    subprocess.run([*build, "--out-dir", folder, ROOT], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    install = [UV, "pip", "install", "--no-index", "--no-deps", "--python", folder / "env" / "bin" / "python"]
    subprocess.run([*install, wheel], check=True, capture_output=True)
    left_out = ("PYTHON", "RAY_ADDRESS")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}

    def start(*arguments: object) -> subprocess.Popen[str]:
        command = [str(folder / "env" / "bin" / "lbae"), *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=folder, env=environment, **pipes)

    return start


def result(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Standard output and error of a command that must succeed."""
    out, error = process.communicate(timeout=280)
    assert process.returncode == 0, error
    return out, error


def test_the_installed_command_lists_jobs_and_versions(lbae):
    listed = [line.split()[0] for line in result(lbae("--help"))[0].splitlines() if line.startswith("  ")]
    assert listed == list(JOBS)
    assert json.loads(result(lbae("--version"))[0])["artifact_format"] == 1
    assert "--min-workers" in result(lbae("train", "--help"))[0]
    process = lbae("trian")
    assert process.communicate()[1].startswith("error: unknown command 'trian'; did you mean 'train'?")
    assert process.returncode == 2


def test_the_installed_command_draws_images(lbae, tmp_path):
    bundle = ROOT / "tests" / "golden" / "v1" / "bundle"
    facts = json.loads(result(lbae("sample", "--bundle", bundle, "--num", 4, "--out", tmp_path / "s.png"))[0])
    assert facts["num"] == 4
    assert (tmp_path / "s.png").exists()


@pytest.mark.slow
def test_the_installed_command_builds_and_serves_a_bundle(lbae, tmp_path):
    out, error = result(lbae("demo", "--epochs", 1, "--out", tmp_path / "demo", *LOCAL))
    assert json.loads(out)["page"] == f"{tmp_path}/demo/report.html"
    assert (tmp_path / "demo" / "report.html").stat().st_size > 100_000
    strange = [line for line in error.splitlines() if not re.fullmatch(r"(?!warning|error)\w+: .*", line)]
    assert strange == [], "a successful run shows lines of Ray"
    process = lbae("serve", "--bundle", tmp_path / "demo" / "bundle", "--port", 8765, *LOCAL)
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        assert httpx.get(f"{json.loads(line)['url']}/readyz").status_code == 200
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 0
