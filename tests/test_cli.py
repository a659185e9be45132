"""What jobs share: signals, versions, the form of log lines, options by their names in Python."""

import json
import os
import signal
import subprocess
import sys
from importlib.metadata import version

import pytest

from lbae import cli
from lbae.errors import UserError
from tests.conftest import ROOT

WAITS = """
import time
from lbae.cli import run
def job(*, with_ray: bool = False) -> dict:
    if not with_ray:
        return wait(time.sleep)
    import ray
    from lbae.distributed.cluster.session import session
    with session():
        return wait(lambda seconds: ray.get(ray.remote(num_cpus=0)(lambda: time.sleep(seconds)).remote()))
def wait(sleep) -> dict:
    try:
        print("begun", flush=True)
        sleep(600)
    finally:
        time.sleep(0.5)  # in which a second signal must not cut it short
        print("cleaned up", flush=True)
    return {}
run(job)
"""
LOGS = """
import logging
from lbae import log
from lbae.cli import run
from lbae.errors import LbaeError
from lbae.report.progress import ProgressLine
def job() -> dict:
    with ProgressLine("count", 3, "images") as line:
        line.update(3)
    log.warning("look out")
    try:
        1 / 0
    except ZeroDivisionError:
        logging.getLogger("other.package").exception("two\\nlines")
    raise LbaeError("it\\nfailed")
run(job)
"""


def options(*, name: str = "", keep: bool = False, num: int = 0, some: cli.Names = ()) -> dict:
    """A job that says what it was given."""
    return {"name": name, "keep": keep, "num": num, "some": some}


@pytest.mark.parametrize("arguments", [[], ["--with-ray"]])
def test_a_job_that_is_stopped_cleans_up(ray_session, arguments):
    command = [sys.executable, "-c", WAITS, *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        out, error = process.communicate(timeout=120)
    assert (out, error, process.returncode) == ("cleaned up\n", "error: stopped\n", 143)


def test_a_job_leaves_the_handler_of_signals_as_it_was(job):
    before = signal.getsignal(signal.SIGTERM)
    assert job("show", "nowhere").code == 2
    assert signal.getsignal(signal.SIGTERM) is before


def test_versions_are_those_of_this_environment(job):
    done = job("train", "--version")
    facts = json.loads(done.out)
    assert (done.code, facts["python"], facts["artifact_format"]) == (0, sys.version.split()[0], 1)
    assert facts["packages"]["torch"] == version("torch")
    assert job("moments", "--version").out == done.out


def test_the_fingerprint_of_files_covers_code(tmp_path):
    code = (
        "import lbae.io.machine as m, sys, pathlib; m._PACKAGE = pathlib.Path(sys.argv[1]);"
        " print(m.versions()['files'])"
    )

    def fingerprint() -> str:
        return subprocess.run(
            [sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout

    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "a.py").write_text("x = 1\n")
    first = fingerprint()
    (tmp_path / "core" / "a.pyc").write_bytes(b"compiled")
    assert fingerprint() == first
    (tmp_path / "core" / "a.py").write_text("x = 2\n")
    assert fingerprint() != first


def logged(form: str) -> tuple[int, list[str]]:
    environment = {**os.environ, "LBAE_LOG": form}
    done = subprocess.run(
        [sys.executable, "-c", LOGS], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr.splitlines()


def test_log_lines_are_json_where_that_is_asked_for():
    code, lines = logged("json")
    said, warned, first, last = (json.loads(line) for line in lines)
    assert code == 1
    assert (said["level"], said["message"]) == ("INFO", "count: 3 of 3 images")
    assert (warned["level"], warned["message"]) == ("WARNING", "look out")
    assert list(first) == ["time", "level", "logger", "message"]
    assert (first["level"], first["logger"]) == ("ERROR", "other.package")
    assert first["message"].startswith("two\nlines\nTraceback")
    assert first["message"].endswith("ZeroDivisionError: division by zero")
    assert (last["logger"], last["message"]) == ("lbae", "it failed")


def test_plain_log_lines_stay_plain():
    code, lines = logged("plain")
    assert (code, lines[:3]) == (1, ["count: 3 of 3 images", "warning: look out", "ERROR other.package: two"])
    assert lines[-1] == "error: it failed"
    assert logged("xml") == (2, ["error: LBAE_LOG is 'xml'; allowed: plain, json"])


def test_options_by_name_take_booleans():
    assert cli.call(options, {"keep": True, "num": 3}) == {"name": "", "keep": True, "num": 3, "some": ()}
    assert cli.call(options, {"keep": False, "name": "false"}) == {
        "name": "false",
        "keep": False,
        "num": 0,
        "some": (),
    }
    with pytest.raises(UserError, match="unknown option --no-num"):
        cli.call(options, {"num": False})
    with pytest.raises(UserError, match=r"unknown option --no-kep; did you mean --keep\?"):
        cli.call(options, {"kep": False})


def test_an_option_given_twice_does_not_lose_a_value():
    assert cli.call(options, {"some": ["a", "b"]})["some"] == ("a", "b")
    with pytest.raises(UserError, match="--name is given more than once"):
        cli.call(options, {"name": ["a", "b"]})
