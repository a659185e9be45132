"""What a job says when it cannot connect to Ray.

Each test uses a subprocess, because Ray reads its settings once per process.
"""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

CONNECT = """
import sys
from lbae.cli import run
from lbae.distributed.cluster.session import session
def job(*, address: str = "") -> dict:
    with session(address or None):
        return {}
run(job)
"""
OTHER_RAY = "import ray._private.utils as u; u.compute_version_info = lambda: ('2.59.0', '3.10.1')\n"
# Ray's own settings, in seconds and tries: how long it waits for a cluster.
SHORT_WAITS = {
    "RAY_gcs_rpc_server_connect_timeout_s": "1",
    "RAY_py_gcs_connect_timeout_s": "2",
    "RAY_NUM_REDIS_GET_RETRIES": "2",
}
NO_ROOM = [
    "unshare",
    "--map-root-user",
    "--mount",
    "sh",
    "-c",
    'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"',
    "sh",
]


def connected(*words: str, code: str = CONNECT, **environment: str) -> tuple[int, str]:
    """Exit code and standard error of a job that only connects.

    The last word is the address; the words before it are a command that runs the job.
    """
    arguments = ["--address", words[-1]] if words else []
    command = [*words[:-1], sys.executable, "-c", code, *arguments]
    environment = {**os.environ, **environment}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_a_version_mismatch_names_both_versions(ray_session):
    code, error = connected(ray_session, code=OTHER_RAY + CONNECT)
    assert code == 2
    assert (
        f"error: the Ray cluster at {ray_session} runs other versions than this job: The cluster was started"
        f" with:" in error
    )
    ours = sys.version.split()[0]
    assert f"Python: {ours} This process" in error
    assert "Ray: 2.59.0 Python: 3.10.1 Ray and Python must be the same on both" in error


def test_a_cluster_that_is_gone_is_an_error_at_once():
    """Ray itself would retry for minutes."""
    code, error = connected(RAY_ADDRESS="127.0.0.1:1")
    assert code == 1
    assert "no Ray cluster answers at 127.0.0.1:1 ([Errno 111] Connection refused)" in error


def test_the_address_of_the_dashboard_is_refused():
    """Users may have it in RAY_ADDRESS, because ``ray job submit`` takes it from there."""
    code, error = connected(RAY_ADDRESS="http://127.0.0.1:8265")
    assert code == 2
    assert error == (
        "error: http://127.0.0.1:8265 is the address of Ray's dashboard, which `ray job submit` takes; give"
        " the cluster's address, HOST:6379, as --address or RAY_ADDRESS, or unset RAY_ADDRESS\n"
    )


def test_a_given_address_overrides_the_environment(ray_session):
    assert connected(ray_session, RAY_ADDRESS="127.0.0.1:1") == (0, "")
    code, error = connected("127.0.0.1:1")  # RAY_ADDRESS is the address of a running Ray
    assert (code, "no Ray cluster answers at 127.0.0.1:1" in error) == (1, True)


@pytest.mark.slow
def test_a_job_that_is_stopped_while_it_connects_says_so():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment = {**os.environ, **SHORT_WAITS, "RAY_ADDRESS": f"127.0.0.1:{silent.getsockname()[1]}"}
        command = [sys.executable, "-c", CONNECT]
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr.readline()  # Ray says that it is still waiting
            process.send_signal(signal.SIGTERM)
            _, error = process.communicate(timeout=280)
    assert process.returncode == 143
    assert error.endswith("error: stopped\n")


def test_a_missing_token_is_named_with_how_to_make_one(ray_session, tmp_path):
    code, error = connected(ray_session, HOME=str(tmp_path), RAY_AUTH_MODE="token")
    assert code == 2
    assert "asks for a token" in error
    assert "`ray get-auth-token --generate` makes one" in error


@pytest.mark.slow
def test_the_error_names_a_wrong_token_as_a_possible_cause(ray_session, tmp_path):
    token = Path(tmp_path, ".ray", "auth_token")
    token.parent.mkdir()
    token.write_text("0" * 64)
    code, error = connected(ray_session, HOME=str(tmp_path), RAY_AUTH_MODE="token", **SHORT_WAITS)
    assert code == 1
    assert f"no Ray cluster answers at {ray_session}, or it refuses this machine's token" in error
    assert "0" * 64 not in error


@pytest.mark.slow
def test_too_little_shared_memory_is_named(tmp_path):
    if subprocess.run([*NO_ROOM, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not allow mounting a /dev/shm in a user namespace")
    code, error = connected(*NO_ROOM, "local")
    assert code == 1
    assert (
        "/dev/shm has 64 MiB free; a local Ray needs 2,048 MiB there: start the container with"
        " `--shm-size=3g`" in error
    )


def test_a_path_too_long_for_sockets_is_named_with_the_variable_to_set(tmp_path):
    long = tmp_path / "slurm_jobdir" / ("a_rather_long_name_of_a_folder" * 3)
    long.mkdir(parents=True)
    code, error = connected("local", TMPDIR=str(long))
    assert code == 2
    assert f"Ray cannot write its files in {long}" in error
    assert "set RAY_TMPDIR to a writable folder with a short path" in error


def test_a_home_that_is_not_writable_is_named():
    code, error = connected("local", HOME="/proc")
    assert code == 2
    assert "Ray cannot write its files in /proc/.ray (" in error
    assert "; set HOME to a writable folder\n" in error
