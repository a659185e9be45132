"""The service on real Ray Serve and HTTP: both topologies answer as the bundle does in this process."""

import functools
import importlib
import itertools
import os
import re
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import numpy as np
import psutil
import pytest
import ray
import ray.serve
import yaml
from pydantic import ValidationError
from ray.serve._private.client import ServeControllerClient
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from lbae.core.latents.packing import pack
from lbae.distributed.serve import service as stage
from lbae.distributed.serve.application import (
    ServeArguments,
    build_application,
    config_limits,
)
from lbae.distributed.serve.running_service import is_served
from lbae.distributed.serve.service import serving
from lbae.errors import LbaeError, UserError
from lbae.io.artifacts.bundle_artifact import load_bundle
from lbae.io.images import encode_png
from lbae.web import client as web
from lbae.web.limits import KEYS_VARIABLE, Limits
from tests.conftest import ROOT, run_job
from tests.web.conftest import b64, pixels_of

PORT = 18125
LIMITS = Limits(keys=("one",), max_running=16)


def config(bundle: str, **changes) -> ServeApplicationSchema:
    tree = yaml.safe_load((ROOT / "cluster" / "serve.yaml").read_text())
    (application,) = ServeDeploySchema.model_validate(tree).applications
    application.args |= {"bundle": bundle, **changes}
    return application


def test_the_config_file_builds_the_application(pipeline, monkeypatch):
    application = config(pipeline.bundle, insecure=True)
    target = getattr(*_imported(application.import_path))
    assert isinstance(target(ServeArguments(**application.args)), ray.serve.Application)
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    with pytest.raises(UserError, match=r"the service of a Serve config is open .* there are no API keys"):
        target(ServeArguments(**config(pipeline.bundle).args))
    with pytest.raises(ValidationError, match="replica"):
        ServeArguments(**config(pipeline.bundle, replica=2).args)
    with pytest.raises(ValidationError, match=r"deployments\.Codec\.cpu"):
        ServeArguments(**config(pipeline.bundle, deployments={"Codec": {"cpu": 2}}).args)
    for wrong in ({"allow_host": ["http://x/"]}, {"allow_origin": ["*"]}):
        with pytest.raises(UserError, match=r"allow_(host|origin) is "):
            target(ServeArguments(**config(pipeline.bundle, insecure=True, **wrong).args))


@pytest.mark.slow
def test_the_service_of_a_config_file_answers_to_the_host_of_ray_serve(monkeypatch):
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    arguments = ServeArguments(
        bundle="x", insecure=True, allow_host=["LBAE.example.org"], allow_origin=["https://app.example.org"]
    )
    assert config_limits(arguments).hosts == ("lbae.example.org",)
    ray.serve.start(http_options={"host": "127.0.0.2", "port": PORT})
    try:
        found = config_limits(arguments)
    finally:
        ray.serve.shutdown()
    assert found.hosts == ("lbae.example.org", "127.0.0.2")
    assert found.origins == ("https://app.example.org",)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
def test_the_config_file_needs_keys_where_its_host_is_not_the_loopback(pipeline, monkeypatch, host):
    """127.0.0.2 stands for an interface that others reach."""
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    arguments = ServeArguments(**config(pipeline.bundle).args)
    ray.serve.start(http_options={"host": host, "port": PORT})
    try:
        if host == "127.0.0.1":
            assert isinstance(build_application(arguments), ray.serve.Application)
        else:
            with pytest.raises(UserError, match=r"host 127\.0\.0\.2 is open .* there are no API keys"):
                build_application(arguments)
            monkeypatch.setenv(KEYS_VARIABLE, "one,two")
            assert isinstance(build_application(arguments), ray.serve.Application)
    finally:
        ray.serve.shutdown()


def _imported(path: str) -> tuple[object, str]:
    module, _, name = path.partition(":")
    return importlib.import_module(module), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "give --bundle or --follow, and not both"),
        ("--bundle {bundle} --follow {bundle}", "give --bundle or --follow, and not both"),
        ("--follow {tmp}/pointer", "pointer {tmp}/pointer does not exist"),
        ("--bundle {bundle} --host=", "host is empty; allowed: the name or address of an interface"),
        ("--bundle {bundle} --host 0.0.0.0", "host 0.0.0.0 is open to other machines and there are no API"),
        ("--bundle {bundle} --deployment Codec:cpu=2", "deployment is 'Codec:cpu=2': cpu is wrong"),
        (
            "--bundle {bundle} --allow-host http://x/",
            "allow_host is 'http://x/'; allowed: a host name or address",
        ),
        (
            "--bundle {bundle} --allow-origin *",
            "allow_origin is '*'; allowed: scheme, host and port of pages",
        ),
    ],
)
def test_an_invalid_command_prints_one_line(pipeline, tmp_path, monkeypatch, arguments, message):
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    places = {"bundle": pipeline.bundle, "tmp": tmp_path}
    outcome = run_job("serve", *arguments.format(**places).split())
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert message.format(**places) in outcome.err


def test_a_port_that_is_taken_is_refused(pipeline):
    with socket.socket() as other:
        other.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEPORT, 1
        )  # as Ray's proxy, so another process could listen too
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(
                UserError,
                match=f"port {port} at 127.0.0.1 is taken: process {os.getpid()} .*listens there; stop it,",
            ),
            serving(pipeline.bundle, port),
        ):
            pass
    for port in (0, 70_000):
        with (
            pytest.raises(UserError, match=f"port is {port}; allowed: 1 to 65535"),
            serving(pipeline.bundle, port),
        ):
            pass
    assert left_of_serve() == []


def left_of_serve() -> list[str]:
    """Names of Ray Serve's actors, including its controller."""
    return [
        actor["name"]
        for actor in ray.util.list_named_actors(all_namespaces=True)
        if actor["name"].startswith("SERVE_")
    ]


@ray.remote(num_cpus=2)
class Greedy:
    """Holds all CPUs of the cluster."""

    def here(self) -> None:
        pass


@pytest.mark.slow
def test_a_service_that_gets_no_cpus_gives_up_and_leaves_no_actors(pipeline, monkeypatch):
    monkeypatch.setattr(stage, "_START_S", 5)
    # Else Ray Serve waits half a minute for replicas that never ran.
    shutdown = functools.partialmethod(ServeControllerClient.shutdown, timeout_s=2)
    monkeypatch.setattr(ServeControllerClient, "shutdown", shutdown)
    greedy = Greedy.remote()
    ray.get(greedy.here.remote())
    with (
        pytest.raises(LbaeError, match="the service did not start in 5 s"),
        serving(pipeline.bundle, PORT, replicas=1),
    ):
        pass
    assert not is_served()
    ray.kill(greedy)
    until = time.monotonic() + 150
    while left_of_serve() and time.monotonic() < until:  # Serve is slow to remove replicas that never ran
        time.sleep(1)
    assert left_of_serve() == []


def lines_of(name: str) -> list[str]:
    """The log lines of the replicas of a deployment."""
    logs = ray._private.worker._global_node.get_logs_dir_path()
    files = (ROOT / logs / "serve").glob(f"replica_lbae_{name}_*.log")
    return [line for file in files for line in file.read_text().splitlines()]


def metrics() -> str:
    """The metrics that the node's agent exports to Prometheus."""
    port = ray.nodes()[0]["MetricsExportPort"]
    return httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text


def seen_in_metrics(pattern: str) -> bool:
    """Whether the pattern appears in the metrics within a minute, several of the agent's rounds."""
    for _ in range(60):
        if re.search(pattern, metrics(), re.MULTILINE):
            return True
        time.sleep(1)
    return False


def resident_bytes(processes: list[psutil.Process]) -> int:
    """Memory of the processes that still run, because old HAProxy workers end meanwhile."""
    total = 0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


def refused_early(head: bytes, chunks) -> bytes:
    """The status line of the answer to a body that the client has not finished sending."""
    with socket.create_connection(("127.0.0.1", PORT), timeout=60) as connection:
        connection.sendall(head)
        try:
            for chunk in chunks:
                connection.sendall(chunk)
        except OSError:  # the service hung up
            pass
        return connection.recv(2**16).partition(b"\r\n")[0]


def overload(url: str, body: dict, requests: int) -> Counter:
    """Statuses of interpolations that many clients request at once, without retries."""
    with ThreadPoolExecutor(requests) as clients:
        sent = [
            clients.submit(httpx.post, f"{url}/v1/interpolate", json=body, timeout=60)
            for _ in range(requests)
        ]
    return Counter(answer.result().status_code for answer in sent)


@pytest.mark.slow
def test_a_service_with_misbehaving_clients(pipeline):
    """Endless bodies, clients that disconnect, and too many clients; then the metrics and the log.

    The log must not hold images.
    """
    image = encode_png(load_bundle(pipeline.bundle, "cpu").sample(1, 5)[0])
    logged = set(lines_of("LBAE"))  # of other tests' services on this Ray
    with (
        socket.create_server(
            ("127.0.0.1", 9101)
        ),  # as another user's HAProxy, which has its metrics at this port by default
        serving(
            pipeline.bundle, PORT, replicas=1, limits=Limits(max_body_bytes=2**20, max_running=4)
        ) as facts,
    ):
        url = facts["url"]
        with (
            pytest.raises(
                UserError, match=f"Ray Serve already listens at 127.0.0.1, port {PORT}, on this cluster"
            ),
            serving(pipeline.bundle, PORT + 5),
        ):
            pass
        takers = [
            one for one in psutil.process_iter() if one.name().startswith(("haproxy", "ray::ServeRepl"))
        ]
        assert "haproxy" in {one.name() for one in takers}
        before = resident_bytes(takers)
        head = b"POST /v1/encode HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        assert b" 413 " in refused_early(head + b"content-length: 104857600\r\n\r\n", ())
        piece = b"100000\r\n" + b" " * 2**20 + b"\r\n"
        assert b" 413 " in refused_early(
            head + b"transfer-encoding: chunked\r\n\r\n", itertools.repeat(piece, 100)
        )
        assert resident_bytes(takers) - before < 64 * 2**20

        path = {
            "items": [{"image": b64(image)}] * 16,
            "steps": 64,
            "format": "stream",
        }  # an answer that takes seconds
        body = httpx.Request("POST", url, json=path).content
        with socket.create_connection(("127.0.0.1", PORT)) as connection:
            whole = (
                b"POST /v1/interpolate HTTP/1.1\r\nhost: localhost\r\ncontent-type:"
                b" application/json\r\ncontent-length: %d\r\n\r\n"
            )
            connection.sendall(whole % len(body) + body)
            assert connection.recv(2**10)
        assert httpx.get(f"{url}/v1/model", headers={"host": "evil.example"}).status_code == 403
        (result,) = httpx.post(f"{url}/v1/encode", json={"images": [b64(image)]}, timeout=60).json()[
            "results"
        ]
        assert "hex" in result
        assert seen_in_metrics(r'^ray_lbae_requests\w*{.*route="/v1/encode".*status="200"')
        assert seen_in_metrics(r'^ray_lbae_requests\w*{.*route="/v1/interpolate".*status="499"')
        assert 'status="500"' not in metrics()
        answers = overload(url, path | {"steps": 16, "format": "webp"}, requests=12)
        assert set(answers) == {200, 503}
        # The replica saw each refused request once: nothing between it and the client retries.
        assert seen_in_metrics(rf'^ray_lbae_requests\w*{{.*route="none",status="503".*}} {answers[503]}\.0$')
        for name in ("request_seconds_bucket", "batch_rows_bucket", "images", "waiting"):
            assert f"ray_lbae_{name}" in metrics()
        lines = set(lines_of("LBAE")) - logged
        assert len([line for line in lines if "POST /v1/encode 200" in line]) == 1
        assert not [line for line in lines if "Traceback" in line or b64(image)[:40] in line]


@pytest.mark.slow
@pytest.mark.parametrize(("topology", "host", "replicas"), [("fused", "127.0.0.1", 2), ("split", "::1", 1)])
def test_every_verb_answers_like_the_bundle(pipeline, topology, host, replicas):
    bundle = load_bundle(pipeline.bundle, "cpu")
    images = bundle.sample(2, 5)
    files = [encode_png(image) for image in images]
    latents = bundle.encode(images)
    with (
        serving(pipeline.bundle, PORT, host, replicas=replicas, topology=topology, limits=LIMITS) as facts,
        web.Client(facts["url"], "one") as service,
    ):
        place = f"[{host}]" if ":" in host else host
        assert (facts["url"], facts["bundle"]) == (f"http://{place}:{PORT}", bundle.fingerprint)
        assert (facts["topology"], facts["topology_reason"]) == (topology, "as asked")
        reserved = ray.cluster_resources()["memory"] - ray.available_resources()["memory"]
        assert reserved > replicas * LIMITS.max_memory_bytes
        drawn = [service.send(web.sample(1, seed=5, format="png")) for _ in range(6)]  # by any replica
        assert len({answer.content for answer in drawn}) == 1
        assert (
            np.abs(pixels_of(drawn[0].content).astype(int) - images[0, ..., 0]).max() <= 2
        )  # the number of threads differs
        given = service.send(web.sample(3, seed=1, given={"label=7": True}, format="latents"))
        assert given.seed == 1
        (found, bad) = service.send(web.encode([files[0], b"no image"]))
        assert (np.frombuffer(found.packed, np.uint8) != pack(latents[:1])).mean() < 0.1
        assert bad.status == 422
        (decoded,) = service.send(web.decode([found]))
        assert pixels_of(decoded).shape == (28, 28)
        assert service.send(web.interpolate(files, steps=3, format="stream")).content.count(b"\n") == 3
        edited = service.send(web.edit(files[0], set=["label=7"], unset=["label=1"]))
        assert edited.bits_changed > 0
        with pytest.raises(web.ServiceError, match="unknown attribute 'label=x'"):
            service.send(web.edit(files[0], set=["label=x"]))
        with pytest.raises(web.ServiceError, match="component is 999999; allowed: 0 to"):
            service.send(web.sample(1, component=999_999))
        with pytest.raises(web.ServiceError, match="ask for fewer attributes at once") as error:
            service.send(web.sample(1, given={f"label={digit}": True for digit in range(10)}))
        assert (error.value.status, error.value.param) == (422, "given")
        assert httpx.post(f"{facts['url']}/v1/sample", json={}).status_code == 401
        foreign = httpx.post(f"{facts['url']}/v1/sample", json={}, headers={"origin": "https://evil.example"})
        assert foreign.status_code == 403
    assert left_of_serve() == []
