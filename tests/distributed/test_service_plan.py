"""How a service is spread over nodes: options per deployment, shares of CPUs, what cannot be placed."""

import pytest
import ray
from ray.util import placement_group_table

from lbae.distributed.serve.application import planned
from lbae.distributed.serve.deployment_options import DeploymentOptions, deployment_options
from lbae.distributed.serve.placement import Need, cpu_share, shortage
from lbae.distributed.serve.service_plan import Scaling, choose_topology, share_of_gpu
from lbae.distributed.serve.split_topology import ROLES
from lbae.errors import UserError
from lbae.web.limits import DEFAULT_LIMITS

GB = 1e9


def needs(replicas: int = 1, **resources: dict[str, float]) -> list[Need]:
    return [Need(deployment=name, replicas=replicas, resources=of) for name, of in resources.items()]


def test_options_are_given_per_deployment():
    assert deployment_options(["Codec:replicas=2,cpus=1.5", "LBAE:max_replicas=4"]) == {
        "Codec": DeploymentOptions(replicas=2, cpus=1.5),
        "LBAE": DeploymentOptions(max_replicas=4),
    }
    assert deployment_options([]) == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["Codec"], "deployment is 'Codec': .*; allowed: NAME:OPTION=NUMBER"),
        (["Codec:cpu=2"], "deployment is 'Codec:cpu=2': cpu is wrong .* options replicas, max_replicas"),
        (["Codec:replicas=1.5"], "'Codec:replicas=1.5': replicas is wrong .*valid integer"),
        (["Codec:cpus="], "'Codec:cpus=': cpus is wrong .*valid number"),
        (["Codec:cpus=1,cpus=2"], "sets Codec or an option twice; give each once"),
        (["Codec:cpus=1", "Codec:cpus=2"], "sets Codec or an option twice; give each once"),
    ],
)
def test_malformed_options_of_a_deployment_are_refused(words, message):
    with pytest.raises(UserError, match=message):
        deployment_options(words)


@pytest.mark.parametrize(
    ("gpus", "replicas", "share"),
    [(0, 2, 0), (1, 1, 1), (1, 2, 1 / 2), (2, 1, 1), (2, 3, 1 / 2), (2, 4, 1 / 2), (4, 9, 1 / 3)],
)
def test_every_replica_fits_on_a_gpu(gpus, replicas, share):
    assert share_of_gpu(gpus, replicas) == share
    assert gpus == 0 or gpus * int(1 / share) >= replicas


@pytest.mark.parametrize(
    ("options", "gpus_there", "topology", "reason"),
    [
        ({}, 0, "fused", "nothing runs on GPUs"),
        ({}, 1, "split", "the codec runs on GPUs"),
        ({"gpu_share": 0}, 1, "fused", "nothing runs on GPUs"),
        ({"gpus": 1}, 0, "split", "the codec runs on GPUs"),
        ({"gpu_share": 0.5}, 0, "split", "the codec runs on GPUs"),
        ({"topology": "fused"}, 1, "fused", "as asked"),
        ({"deployments": {"LBAE": {"cpus": 2}}}, 0, "fused", "nothing runs on GPUs"),
        ({"deployments": {"Editor": {}, "Codec": {}}}, 0, "split", "Codec, Editor have options of their own"),
    ],
)
def test_auto_is_split_where_the_network_has_gpus(options, gpus_there, topology, reason):
    found, why = choose_topology(Scaling(**options), gpus_there)
    assert found == topology
    assert reason in why


@pytest.mark.parametrize(
    ("rooms", "share"),
    [
        ([{"CPU": 16}], 1),
        ([{"CPU": 5}, {"CPU": 5}], 1),
        ([{"CPU": 4}], 1 / 4),
        ([{"CPU": 2}], 1 / 5),
        ([{"CPU": 1}, {"CPU": 1}, {"CPU": 1}], 1 / 4),
        ([{"CPU": 0}, {"CPU": 2}], 1 / 5),
    ],
)
def test_replicas_share_the_cpus_of_small_clusters(rooms, share):
    """Ten replicas that name no CPUs."""
    assert cpu_share(needs(2, **{name: {} for name in ROLES}), rooms) == share


def test_replicas_with_gpus_leave_room_on_their_nodes():
    """One node has the GPU and one CPU, so both codec replicas go there, and nothing else needs to."""
    rooms = [{"CPU": 1, "GPU": 1}, {"CPU": 4}]
    assert cpu_share(needs(2, Codec={"GPU": 0.5}, Sampler={}), rooms) == 1 / 2
    assert cpu_share(needs(2, Codec={"GPU": 0.5, "CPU": 0.5}, Sampler={}), rooms) == 1
    assert cpu_share(needs(2, Codec={"GPU": 1}), [{"CPU": 4, "GPU": 1}]) == 1, "no share helps"


def test_what_cannot_be_placed_is_named():
    rooms = [{"CPU": 2.0, "memory": 8 * GB}] * 2 + [{"CPU": 4.0, "GPU": 1.0, "memory": 4 * GB}]
    assert shortage(needs(Codec={"CPU": 4, "GPU": 1}, Editor={"CPU": 1, "memory": 8 * GB}), rooms) is None
    found = shortage(needs(Sampler={"CPU": 1}, Codec={"CPU": 4, "memory": 6 * GB}), rooms)
    assert found is not None
    assert found.startswith(
        "deployment Codec cannot be placed: a replica asks for 4 CPUs and 6.0 GB, which no node has; the"
        " nodes have 2 CPUs, 0 GPUs and 8.0 GB; 4 CPUs, 1 GPU and 4.0 GB: "
    )
    found = shortage(needs(3, Sampler={"CPU": 2}, Codec={"CPU": 1}), rooms)
    assert found is not None
    assert found.startswith("the replicas ask for 9 CPUs (3 Sampler, 3 Codec); the cluster has 8 CPUs: give")


def plan(pipeline, **options):
    _, found = planned(pipeline.bundle, False, Scaling(**options), DEFAULT_LIMITS)
    return found


def test_a_split_service_on_two_cpus(pipeline):
    found = plan(
        pipeline,
        topology="split",
        max_replicas=3,
        deployments={"Editor": {"replicas": 2, "max_replicas": 2, "memory_gb": 0.7}, "Codec": {"cpus": 1}},
    )
    own = found.deployments
    assert (found.topology, found.reason) == ("split", "as asked")
    assert own.keys() == ROLES.keys()
    assert {name: of.cpus for name, of in own.items()} == dict.fromkeys(ROLES, 0.2) | {"Codec": 1}
    assert (own["Editor"].least, own["Editor"].most, own["Editor"].is_autoscaled) == (2, 2, False)
    assert (own["Codec"].least, own["Codec"].most, own["Codec"].is_autoscaled) == (1, 3, True)
    assert own["Editor"].memory == 700_000_000 != own["Sampler"].memory
    assert found.threads == 1, "as many as the codec's CPUs"
    assert {of.gpus for of in own.values()} == {0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replicas": 3}, r"3 CPUs are needed; the cluster has 2 .*: give fewer replicas"),
        ({"replicas": 2, "max_replicas": 1}, "replicas is 2, max_replicas is 1; allowed: replicas from 1"),
        ({"deployments": {"LBAE": {"replicas": 0}}}, "replicas of deployment LBAE is 0, max_replicas is 0"),
        ({"deployments": {"LBAE": {"cpus": -1}}}, "cpus of deployment LBAE is -1; allowed: above 0"),
        ({"topology": "fused", "deployments": {"Codec": {}}}, "unknown deployment of topology fused 'Codec'"),
        (
            {"deployments": {"Codek": {}}},
            "unknown deployment of topology split 'Codek'; did you mean 'Codec'",
        ),
        ({"gpus": 0}, "gpus is 0; allowed: 1 or more"),
        ({"gpu_share": 1.5}, "gpu_share is 1.5; allowed: above 0, to 1"),
        ({"gpus": 1, "gpu_share": 0}, "gpus is 1, gpu_share is 0: "),
        ({"gpus": 1, "gpu_share": 1, "replicas": 2}, "gpus is 1; 2 replicas with a gpu_share of 1 need 2"),
        ({"gpus": 2}, r"2 GPUs are needed; the cluster has 0 after 0\.1 s: start nodes that have GPUs"),
        ({"gpu_share": 0.4, "replicas": 2}, "1 GPUs are needed; the cluster has 0 after"),
        (
            {"deployments": {"Editor": {"cpus": 64}}},
            r"deployment Editor cannot be placed: a replica asks for 64 CPUs, which no .*after 0\.1 s",
        ),
        (
            {"deployments": {"LBAE": {"memory_gb": 9000}}},
            "deployment LBAE cannot be placed: a replica asks for 1 CPU and 9000.0 GB, which no node has",
        ),
    ],
)
def test_what_the_cluster_cannot_hold_is_refused_in_time(pipeline, monkeypatch, options, message):
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "0.1")
    with pytest.raises(UserError, match=message):
        plan(pipeline, **options)
    assert {one["state"] for one in placement_group_table().values()} <= {"REMOVED"}
    assert ray.available_resources()["CPU"] == 2
