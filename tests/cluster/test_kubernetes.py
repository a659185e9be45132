"""The files of cluster/kuberay: what Kubernetes and KubeRay accept, and what pods may do and for how long."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer, get_nodes_for

from lbae.web.limits import DEFAULT_LIMITS
from tests.cluster.files import CLUSTER, check, documents, read
from tests.conftest import ROOT

MANIFESTS = sorted(path.relative_to(CLUSTER).as_posix() for path in (CLUSTER / "kuberay").glob("*.yaml"))
CLUSTERS = [name for name in MANIFESTS if "access" not in name]
SERVICES = [name for name in CLUSTERS if "rayservice" in name]


def cluster_of(name: str) -> dict:
    """The specification of a manifest's Ray cluster."""
    spec = read(name)["spec"]
    return spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec


def templates(tree: object) -> Iterator[dict]:
    """The templates of all pods in a manifest."""
    for name, branch in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if name in ("template", "submitterPodTemplate"):
            yield branch
        elif isinstance(branch, dict | list):
            yield from templates(branch)


def workers(name: str) -> list[dict]:
    return [group["template"] for group in cluster_of(name)["workerGroupSpecs"]]


def access(kind: str) -> dict[str, dict]:
    return {one["metadata"]["name"]: one for one in documents("kuberay/access.yaml") if one["kind"] == kind}


@pytest.mark.parametrize("name", MANIFESTS)
def test_kubernetes_accepts_every_object(name):
    for document in documents(name):
        check(document)


@pytest.mark.parametrize("name", CLUSTERS)
def test_clusters_run_our_ray_and_ask_for_a_token(name):
    cluster = cluster_of(name)
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize(
    ("name", "path", "field"),
    [
        ("raycluster", ("spec", "workerGroupSpecs", 0), "maxReplica"),
        ("rayjob", ("spec", "submitterPodTemplate", "spec"), "serviceAcountName"),
        ("rayservice", ("spec", "rayClusterConfig", "headGroupSpec", "template", "spec"), "runAsUser"),
        ("access", ("metadata",), "label"),
    ],
)
def test_an_unknown_field_is_refused(name, path, field):
    manifest = place = read(f"kuberay/{name}.yaml")
    for step in path:
        place = place[step]
    place[field] = 3
    with pytest.raises(jsonschema.ValidationError, match=field):
        check(manifest)


@pytest.mark.parametrize("name", CLUSTERS)
def test_pods_meet_the_restricted_standard_and_write_only_below_tmp(name):
    autoscaler = cluster_of(name)["autoscalerOptions"]
    containers = [autoscaler]
    for template in templates(read(name)["spec"]):
        pod = template["spec"]
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert pod["volumes"] == [{"name": "tmp", "emptyDir": {}}]
        containers += pod["containers"]
    assert len(containers) > 2
    for container in containers:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        assert container["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]
        assert container["env"] == [{"name": "HOME", "value": "/tmp"}]
        if container is not autoscaler:  # it runs the head's image
            assert re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", container["image"]), "a digest does not change"


def test_the_user_of_the_image_is_a_number_so_that_kubernetes_sees_that_it_is_not_root():
    text = (CLUSTER / "Dockerfile").read_text()
    assert "useradd --create-home --uid 1000 ray" in text
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["1000"]


@pytest.mark.parametrize("name", CLUSTERS)
def test_only_the_head_may_use_the_kubernetes_api(name):
    accounts = access("ServiceAccount")
    assert cluster_of(name)["headGroupSpec"]["template"]["spec"]["serviceAccountName"] == "lbae-head"
    others = [*workers(name), read(name)["spec"].get("submitterPodTemplate")]
    for template in filter(None, others):
        account = accounts[template["spec"]["serviceAccountName"]]
        assert account["metadata"]["name"] != "lbae-head"
        assert account["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_network_policy_selects_every_pod(name):
    (policy,) = access("NetworkPolicy").values()
    wanted = policy["spec"]["podSelector"]["matchLabels"]
    assert wanted, "an empty selector would select the pods of others"
    for template in templates(read(name)["spec"]):
        assert wanted.items() <= template["metadata"]["labels"].items()


def test_only_pods_of_the_cluster_reach_every_port():
    (policy,) = access("NetworkPolicy").values()
    own = [{"podSelector": policy["spec"]["podSelector"]}]
    for rule in policy["spec"]["ingress"]:
        assert rule["from"], "a rule without `from` lets everybody in"
        assert ("ports" not in rule) == (rule["from"] == own)


def groups_for(name: str, demand: dict[str, float]) -> dict[str, int]:
    """How many pods of each group Ray's autoscaler starts for a demand on a cluster without pods."""
    cluster = {"metadata": {"name": "lbae", "namespace": "default"}, "spec": cluster_of(name)}
    types = _derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]
    scorer = partial(_default_utilization_scorer, node_availability_summary=None)
    pods, unmet = get_nodes_for(types, {}, "headgroup", 8, [demand], utilization_scorer=scorer)
    assert unmet == []
    return dict(pods)


@pytest.mark.parametrize("name", CLUSTERS)
def test_only_work_for_gpus_starts_gpu_pods(name):
    assert groups_for(name, {"CPU": 1}) == {"cpu": 1}
    least = {group["groupName"]: group["minReplicas"] for group in cluster_of(name)["workerGroupSpecs"]}
    if "gpu" in least:
        assert groups_for(name, {"GPU": 1, "CPU": 4, "memory": 8e9}) == {"gpu": 1}
    assert least.get("gpu", 0) == 0, "GPU pods cost most"
    assert (least["cpu"] == 0) == (name not in SERVICES), "a cluster for jobs costs nothing while it has none"


def test_the_two_services_differ_only_in_their_application_and_pods():
    cpus, gpus = (documents(name) for name in ("kuberay/rayservice.yaml", "kuberay/rayservice-gpu.yaml"))
    for service in (cpus[0]["spec"], gpus[0]["spec"]):
        config = yaml.safe_load(service.pop("serveConfigV2"))
        config["applications"][0]["args"] = None
        service["config"] = config
        for group in (groups := service["rayClusterConfig"]["workerGroupSpecs"]):
            (container,) = group["template"]["spec"]["containers"]
            del container["resources"]
        groups[1:] = []
    assert cpus == gpus


def pause(template: dict) -> tuple[int, int]:
    """For how long a pod's processes go on after the pod is told to stop: at least, at most (s)."""
    (container,) = template["spec"]["containers"]
    command = container["lifecycle"]["preStop"]["exec"]["command"]
    words = shlex.split(command[-1]) if command[0] == "bash" else command
    seconds = [int(words[at + 1]) for at, word in enumerate(words) if word in ("sleep", "timeout")]
    return seconds[-1], sum(seconds)


@pytest.mark.parametrize("name", CLUSTERS)
def test_pods_are_not_killed_while_they_drain(name):
    templates = workers(name)
    if name in SERVICES:
        templates = [*templates, cluster_of(name)["headGroupSpec"]["template"]]
    for template in templates:
        least, most = pause(template)
        assert most < template["spec"]["terminationGracePeriodSeconds"]
        assert name not in SERVICES or least > DEFAULT_LIMITS.max_seconds, "a request may take this long"


@pytest.mark.parametrize("name", SERVICES)
def test_an_upgrade_keeps_the_old_cluster_for_as_long_as_its_requests_take(name):
    assert read(name)["spec"]["rayClusterDeletionDelaySeconds"] > DEFAULT_LIMITS.max_seconds


@pytest.mark.parametrize("name", SERVICES)
def test_a_drained_machine_leaves_a_pod_that_serves(name):
    (budget,) = (one for one in documents(name) if one["kind"] == "PodDisruptionBudget")
    labels = budget["spec"]["selector"]["matchLabels"]
    groups = cluster_of(name)["workerGroupSpecs"]
    serving = [one for one in groups if labels.items() <= one["template"]["metadata"]["labels"].items()]
    # Kubernetes takes no other field for pods of an operator. Equal numbers would block every drain.
    assert budget["spec"]["minAvailable"] < sum(group["minReplicas"] for group in serving)
    head = cluster_of(name)["headGroupSpec"]["template"]["metadata"]["labels"]
    assert not labels.items() <= head.items()


@pytest.mark.parametrize("name", SERVICES)
def test_pods_of_the_service_are_spread_over_machines_and_zones(name):
    for template in workers(name):
        rules = template["spec"]["topologySpreadConstraints"]
        assert {rule["topologyKey"] for rule in rules} == {
            "kubernetes.io/hostname",
            "topology.kubernetes.io/zone",
        }
        for rule in rules:
            selected = rule["labelSelector"]["matchLabels"]
            assert selected.items() <= template["metadata"]["labels"].items()
            assert rule["matchLabelKeys"] == ["ray.io/cluster"], "an upgrade runs two clusters for a while"


@pytest.mark.slow
def test_a_pod_that_stops_drains_its_node(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (container,) = workers("kuberay/rayservice.yaml")[0]["spec"]["containers"]
    drain, _, _ = container["lifecycle"]["preStop"]["exec"]["command"][-1].rpartition(";")
    drain = re.sub(r"^timeout \d+ ", "", drain)  # this machine may be busy
    command = [sys.executable, "-m", "tests.cluster.drain_a_node", drain]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    (seconds,) = json.loads(done.stdout.splitlines()[-1]).values()
    assert 0 < seconds <= pause(workers("kuberay/rayservice.yaml")[0])[0], "Ray knows until when the pod runs"
