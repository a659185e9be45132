"""Starting a service on a taken port: taken by the user's killed service, or by other processes."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from lbae.distributed.serve import haproxy
from lbae.distributed.serve.processes import ancestors, listener, processes, read_process
from tests.conftest import ROOT, run_job, service

PORT = 18129


def proxies(port: int) -> list[psutil.Process]:
    """HAProxy processes that listen on a port."""
    found = [process for process in psutil.process_iter(["name"]) if process.info["name"] == "haproxy"]
    listening = psutil.CONN_LISTEN
    return [
        process
        for process in found
        if any(c.laddr.port == port and c.status == listening for c in process.net_connections("tcp"))
    ]


def wait_for(condition, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.2)


@pytest.mark.slow
def test_a_killed_service_leaves_no_proxy_that_keeps_its_port(pipeline):
    """As with `ray stop --force`, which kills all of Ray's processes, so that none can end its children."""
    command = ["jobs/serve.py", "--bundle", pipeline.bundle, "--port", str(PORT), "--address", "local"]
    killed = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert json.loads(killed.stdout.readline())["url"].endswith(f":{PORT}")
    (proxy,) = proxies(PORT)
    (folder,) = {Path(one).parent for one in proxy.cmdline() if one.endswith("/haproxy.cfg")}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    listening = [one.laddr for one in proxy.net_connections("inet") if one.status == psutil.CONN_LISTEN]
    assert listening == [("127.0.0.1", PORT)]
    assert proxy.pid not in haproxy.end_orphans(), "the proxy of a running service"
    for process in [proxy.parent(), *psutil.Process(killed.pid).children(recursive=True), killed]:
        if process.pid != proxy.pid:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    killed.communicate()
    assert proxies(PORT) == [proxy]
    with service("--bundle", pipeline.bundle, "--port", str(PORT)) as facts:
        assert not proxy.is_running()
        assert not folder.exists()
        assert httpx.get(f"{facts['url']}/readyz").status_code == 200
    assert proxies(PORT) == []


@pytest.mark.slow
def test_a_service_of_another_ray_keeps_its_port(pipeline):
    with service("--bundle", pipeline.bundle, "--port", str(PORT), "--address", "local"):
        before = proxies(PORT)
        outcome = run_job("serve", "--bundle", pipeline.bundle, "--port", PORT)
        after = proxies(PORT)
        assert outcome.code == 2
        found = re.search(rf"port {PORT} at 127.0.0.1 is taken: process (\d+) \(", outcome.error)
        assert int(found[1]) in {one.pid for one in before + after}  # a late reload replaces the process
        assert "listens there; stop it, or give another --port" in outcome.error
        assert after


def test_the_process_that_listens_is_named():
    with socket.socket(socket.AF_INET6) as other:
        other.bind(("::1", 0))
        port = other.getsockname()[1]
        assert listener(port) == "another process", "the socket is bound and does not listen"
        other.listen()
        assert listener(port).startswith(f"process {os.getpid()} (")


def test_a_process_is_read_with_its_ancestors():
    with subprocess.Popen(["sleep", "60"]) as child:
        wait_for(lambda: read_process(child.pid).command)  # a program that just started shows none yet
        found = read_process(child.pid)
        assert (found.parent, found.user, found.command) == (os.getpid(), os.getuid(), ("sleep", "60"))
        assert found in list(processes())
        assert next(ancestors(found)).pid == os.getpid()
        child.send_signal(signal.SIGKILL)
        wait_for(lambda: read_process(child.pid) is None)  # a zombie until its parent reaps it


@pytest.mark.parametrize(
    ("name", "argument", "orphan"),
    [
        ("haproxy", "/tmp/haproxy-serve-of-a-test/haproxy.cfg", True),
        ("haproxy", "/tmp/haproxy-serve/of-a-test/haproxy.cfg", True),
        ("haproxy", "/etc/haproxy/haproxy.cfg", False),
        ("haproxy", "/tmp/haproxy-serve.cfg", False),
        ("haproxy", "/tmp/haproxy.cfg", False),
        ("other", "/tmp/haproxy-serve-of-a-test/haproxy.cfg", False),
    ],
)
def test_only_orphaned_proxies_of_the_service_are_ended(tmp_path, name, argument, orphan):
    """With a process that sleeps under HAProxy's name and arguments."""
    stand_in = tmp_path / name
    stand_in.symlink_to(os.path.realpath(sys.executable))
    code = "import time; print('ready', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [stand_in, "-c", code, "-f", argument], stdout=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        assert (process.pid in haproxy.end_orphans()) == orphan
        if not orphan:
            assert process.poll() is None
            process.kill()
