"""The files of cluster/ that Serve, Ray's jobs, Prometheus and Grafana read."""

import json
import re

import pytest
import yaml
from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE
from ray.runtime_env import RuntimeEnv
from ray.serve.schema import ServeDeploySchema
from ray.train.v2._internal.constants import WORKER_GROUP_START_TIMEOUT_S_ENV_VAR

from lbae.distributed.serve.application import ServeArguments
from lbae.distributed.serve.haproxy import controller_options
from tests.cluster.files import CLUSTER, read
from tests.conftest import ROOT


@pytest.mark.parametrize("config", ["serve.yaml", "kuberay/rayservice.yaml", "kuberay/rayservice-gpu.yaml"])
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
