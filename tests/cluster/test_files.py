"""The files of cluster/, checked against the schemas of the programs that read them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml
from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv
from ray.serve.schema import ServeDeploySchema
from ray.train.v2._internal.constants import WORKER_GROUP_START_TIMEOUT_S_ENV_VAR

from lbae.distributed.serve.application import ServeArguments
from lbae.distributed.serve.haproxy import controller_options
from tests.conftest import ROOT

CLUSTER = ROOT / "cluster"
KUBERAY = json.loads(Path(__file__).with_name("kuberay-v1.7.0.json").read_text())


def read(name: str) -> dict:
    return yaml.safe_load((CLUSTER / name).read_text())


def check(manifest: dict) -> None:
    schema = {"$ref": f"#/$defs/{manifest['kind']}", "$defs": KUBERAY["$defs"]}
    jsonschema.validate(manifest, schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize("name", ["raycluster", "rayjob", "rayservice"])
def test_manifests_match_the_schemas_of_kuberay(name):
    manifest = read(f"kuberay/{name}.yaml")
    check(manifest)
    spec = manifest["spec"]
    cluster = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["authOptions"] == {"mode": "token"}


def pods(tree: object) -> Iterator[dict]:
    """The specifications of all pods in a manifest."""
    for name, branch in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if name in ("template", "submitterPodTemplate"):
            yield branch["spec"]
        elif isinstance(branch, dict | list):
            yield from pods(branch)


@pytest.mark.parametrize(("name", "count"), [("raycluster", 2), ("rayjob", 3), ("rayservice", 2)])
def test_containers_of_kuberay_have_no_privileges_and_write_only_below_tmp(name, count):
    manifest = read(f"kuberay/{name}.yaml")
    found = list(pods(manifest["spec"]))
    assert len(found) == count
    for pod in found:
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert pod["volumes"] == [{"name": "tmp", "emptyDir": {}}]
    spec = manifest["spec"].get("rayClusterConfig", manifest["spec"])
    autoscalers = [spec["autoscalerOptions"]] if spec.get("enableInTreeAutoscaling") else []
    for container in (*(one for pod in found for one in pod["containers"]), *autoscalers):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        assert container["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]
        assert container["env"] == [{"name": "HOME", "value": "/tmp"}]


def test_the_user_of_kuberay_is_the_one_of_the_image():
    assert "useradd --create-home --uid 1000 ray" in (CLUSTER / "Dockerfile").read_text()


def test_a_field_unknown_to_kuberay_is_refused():
    manifest = read("kuberay/raycluster.yaml")
    manifest["spec"]["workerGroupSpecs"][0]["maxReplica"] = 3
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        check(manifest)


@pytest.mark.parametrize("config", ["serve.yaml", "kuberay/rayservice.yaml"])
def test_ray_serve_accepts_its_config(config):
    tree = read(config)
    tree = yaml.safe_load(tree["spec"]["serveConfigV2"]) if "spec" in tree else tree
    schema = ServeDeploySchema.model_validate(tree)
    (application,) = schema.applications
    assert schema.controller_options.model_dump() == controller_options("0.0.0.0", autoscaled=True), (
        "the same HAProxy settings as serve.py"
    )
    arguments = ServeArguments(**application.args)
    assert arguments.bundle.startswith("s3://")
    assert not arguments.insecure, "another host would open the service without keys"
    assert application.import_path == "lbae.distributed.serve.application:build_application"


def test_ray_up_accepts_its_config():
    validate_config(prepare_config(read("ray-aws.yaml")))


def test_ray_accepts_the_environment_of_submitted_jobs():
    environment = RuntimeEnv(**read("runtime_env.yaml"))
    assert WORKER_GROUP_START_TIMEOUT_S_ENV_VAR in environment.env_vars()
    assert all((ROOT / name).exists() for name in environment["excludes"] if name not in (".venv", "runs"))


def test_prometheus_reads_the_nodes_from_the_file_and_port_of_ray():
    beside, inside = read("prometheus.yaml")["scrape_configs"]
    (files,) = beside["file_sd_configs"]
    assert files["files"] == [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]
    (rule,) = inside["relabel_configs"]
    assert rule["source_labels"][-1].endswith("container_port_name")
    groups = read("kuberay/raycluster.yaml")["spec"]
    for group in (groups["headGroupSpec"], *groups["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        assert [
            port["name"] for port in container["ports"] if re.fullmatch(rule["regex"], f"yes;{port['name']}")
        ]


def test_the_dashboard_shows_exactly_the_metrics_of_the_code():
    code = "".join(path.read_text() for path in (ROOT / "lbae" / "distributed").rglob("*.py"))
    made = {f"ray_{name}" for name in re.findall(r'"(lbae_\w+)"', code)}
    made |= {f"ray_lbae_{name}" for name in ("train_loss", "validation_loss", "images_per_second")}
    dashboard = json.loads((CLUSTER / "grafana.json").read_text())
    shown = re.findall(
        r"ray_lbae_\w+", " ".join(t["expr"] for panel in dashboard["panels"] for t in panel["targets"])
    )
    assert {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in shown} == made
