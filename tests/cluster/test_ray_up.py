"""``ray-aws.yaml``, by Ray's own code: the options of containers, and which nodes start for which work."""

import re
from functools import partial
from typing import Any

import pytest
from moto import mock_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.command_runner import DockerCommandRunner
from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer, get_nodes_for
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster.files import read

MEMORY_KIB = 30 * 2**20


class Machine:
    """A machine behind ssh, with Docker and NVIDIA's runtime; it records what runs there."""

    def __init__(self) -> None:
        self.commands: list[str] = []

    def check_output(self, command: list[str]) -> bytes:
        self.commands.append(command[-1])
        if "docker info" in command[-1]:
            return b"map[nvidia:{nvidia-container-runtime [] <nil>} runc:{runc [] <nil>}]"
        if "/proc/meminfo" in command[-1]:
            return b"MemTotal: 32000000 kB\nMemAvailable: %d kB\n" % MEMORY_KIB
        return b'["PATH=/usr/bin"]' if ".Config.Env" in command[-1] else b"docker"

    def check_call(self, command: list[str], **streams: Any) -> None:
        self.commands.append(command[-1])


class Provider:
    def internal_ip(self, node: str) -> str:
        return "10.0.0.1"


def config() -> dict[str, Any]:
    prepared = prepare_config(read("ray-aws.yaml"))
    validate_config(prepared)
    return prepared


def start_of_container(node_type: str) -> str:
    """The command `docker run`, as `ray up` (for the head) or the autoscaler (for others) calls it."""
    machine, tree = Machine(), config()
    # StandardAutoscaler._get_node_specific_docker_config
    docker = tree["docker"] | tree["available_node_types"][node_type].get("docker", {})
    runner = DockerCommandRunner(
        docker,
        log_prefix="",
        node_id="node",
        provider=Provider(),
        auth_config=tree["auth"],
        cluster_name=tree["cluster_name"],
        process_runner=machine,
        use_internal_ip=True,
    )
    runner.run_init(as_head=node_type == "head", file_mounts=tree["file_mounts"], sync_run_yet=True)
    (started,) = (command for command in machine.commands if "docker run" in command)
    return started


@pytest.mark.parametrize(("node_type", "gpus"), [("head", False), ("cpu", False), ("gpu", True)])
def test_only_containers_on_gpu_nodes_ask_for_gpus(node_type, gpus):
    command = start_of_container(node_type)
    assert ("--gpus all" in command) == gpus
    assert "--ulimit nofile=65536:65536" in command
    (size,) = re.findall(r"--shm-size=\D*([\d.]+)b", command)
    assert float(size) == pytest.approx(0.3 * 1.1 * MEMORY_KIB * 1024), (
        "Ray sizes /dev/shm for its object store"
    )


def test_the_disk_holds_the_image():
    for name, node_type in config()["available_node_types"].items():
        (disk,) = node_type["node_config"]["BlockDeviceMappings"]
        assert disk["Ebs"]["VolumeSize"] >= 50, name


@pytest.fixture(scope="module")
def node_types() -> dict[str, Any]:
    """The node types with the CPUs and GPUs of their instances."""
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        return AWSNodeProvider.fillout_available_node_types_resources(config())["available_node_types"]


@pytest.mark.parametrize(
    ("demand", "nodes"),
    [
        ([{"CPU": 1}], {"cpu": 1}),
        ([{"CPU": 1}] * 20, {"cpu": 3}),
        ([{"GPU": 1}], {"gpu": 1}),
        ([{"GPU": 1, "CPU": 1}] * 2, {"gpu": 2}),
        ([{"GPU": 0.25, "CPU": 1}] * 8, {"gpu": 2}),
    ],
)
def test_work_without_gpus_starts_no_gpu_nodes(node_types, demand, nodes):
    scorer = partial(_default_utilization_scorer, node_availability_summary=None)
    found, unmet = get_nodes_for(node_types, {}, "head", 8, demand, utilization_scorer=scorer)
    assert (dict(found), unmet) == (nodes, [])
