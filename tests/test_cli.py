"""Behaviour that all jobs share: signals, versions, help, log lines and results."""

import contextlib
import json
import logging
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from importlib.metadata import version

import pytest

from lbae import cli
from tests.conftest import ROOT, run_job

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
        time.sleep(0.5)  # a second signal must not cut this short
        print("cleaned up", flush=True)
    return {}
run(job)
"""
LOGS = """
import logging
import threading
import warnings
from lbae.cli import run
from lbae.errors import LbaeError
from lbae.report.progress import ProgressLine
def job() -> dict:
    with ProgressLine("count", 3, "images") as line:
        line.update(3)
    logging.getLogger("lbae.core").warning("look out")
    warnings.warn("of a library")
    thread = threading.Thread(target=lambda: [].pop())
    thread.start()
    thread.join()
    try:
        1 / 0
    except ZeroDivisionError:
        logging.getLogger("other.package").exception("two\\nlines")
    raise LbaeError("it\\nfailed")
run(job)
"""


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


def test_a_job_restores_the_signal_handler(job):
    before = signal.getsignal(signal.SIGTERM)
    assert job("show", "nowhere").code == 2
    assert signal.getsignal(signal.SIGTERM) is before


def test_version_prints_the_versions_of_this_environment(job):
    done = job("train", "--version")
    facts = json.loads(done.out)
    assert (done.code, facts["python"], facts["artifact_format"]) == (0, sys.version.split()[0], 1)
    assert facts["packages"]["torch"] == version("torch")
    assert job("moments", "--version").out == done.out


def test_the_fingerprint_of_files_covers_code(tmp_path):
    code = (
        "import lbae.io.machine_facts as m, sys, pathlib; m._PACKAGE = pathlib.Path(sys.argv[1]);"
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


def test_log_lines_are_json_with_lbae_log_json():
    code, lines = logged("json")
    said, warned, library, thread, first, last = (json.loads(line) for line in lines)
    assert code == 1
    assert list(said) == ["time", "level", "logger", "message"]
    assert (said["level"], said["message"]) == ("INFO", "count: 3 of 3 images")
    assert (warned["level"], warned["logger"], warned["message"]) == ("WARNING", "lbae.core", "look out")
    assert (library["level"], library["logger"]) == ("WARNING", "py.warnings")
    assert "UserWarning: of a library" in library["message"]
    assert thread["message"].endswith("IndexError: pop from empty list")
    assert (first["level"], first["logger"]) == ("ERROR", "other.package")
    assert first["message"].startswith("two\nlines\nTraceback")
    assert first["message"].endswith("ZeroDivisionError: division by zero")
    assert (last["level"], last["logger"], last["message"]) == ("ERROR", "lbae.cli", "it failed")


def test_log_lines_are_plain_by_default():
    code, lines = logged("plain")
    assert (code, lines[:2]) == (1, ["count: 3 of 3 images", "warning: look out"])
    assert "ERROR other.package: two" in lines
    assert lines[-1] == "error: it failed"
    assert logged("xml") == (2, ["error: LBAE_LOG is 'xml'; allowed: plain, json"])


def test_a_job_restores_the_logging_of_its_process():
    root = logging.getLogger()
    before = (root.handlers[:], root.level, logging.getLogger("lbae").level, threading.excepthook)
    assert run_job("show", "nowhere").code == 2
    after = (root.handlers, root.level, logging.getLogger("lbae").level, threading.excepthook)
    assert after == before


def on_a_terminal(*command: str) -> tuple[int, str]:
    """Run a command on a pseudo-terminal of 100 columns; return its exit code and output."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "100", "TERM": "dumb"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        text = b""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while part := os.read(ours, 4096):
                text += part
    os.close(ours)
    return process.returncode, text.decode().replace("\r\n", "\n")


SAMPLE_FOUR = (sys.executable, "jobs/sample.py", "--bundle", "tests/golden/v1/bundle", "--num", "4", "--out")


def test_a_terminal_gets_a_table(tmp_path):
    code, text = on_a_terminal(*SAMPLE_FOUR, str(tmp_path / "s.png"))
    assert code == 0
    assert re.search(r"^ *num +4 *$", text, re.MULTILINE)
    assert re.search(
        rf"^ *out +{re.escape(str(tmp_path)[:30])}", text, re.MULTILINE
    )  # a long path is wrapped
    assert "{" not in text


def test_a_terminal_gets_json_with_the_option_json(tmp_path):
    code, text = on_a_terminal(*SAMPLE_FOUR, str(tmp_path / "s.png"), "--json")
    assert (code, json.loads(text)["num"]) == (0, 4)


def test_help_lists_options_that_jobs_share():
    done = run_job("train", "--help")
    assert done.code == 0
    assert "usage: lbae train" in done.out
    for option in ("--address", "--gpus", "--overwrite", "--kind", "--max-bad-fraction"):
        assert option in done.out


def test_the_list_of_jobs_imports_neither_torch_nor_ray():
    code = "import sys; sys.argv = ['lbae', '--help']; from lbae.cli import main; main()"
    code += "; assert not {'torch', 'ray'} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    listed = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert listed == list(cli.JOBS)
    assert all(len(line) <= 100 for line in done.stdout.splitlines() if line.startswith("  "))


def test_a_closed_pipe_is_not_an_error():
    command = f"{sys.executable} -c 'from lbae.cli import main; main()' --help | true"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
