"""Make ``schemas.json``: the schemas of KubeRay's and Kubernetes' objects that the files of cluster/ use.

``python -m tests.cluster.pack_schemas CRDS DEFINITIONS``: CRDS is the folder helm-chart/kuberay-operator/crds
of KubeRay at the tag KUBERAY; DEFINITIONS is v1.30.0-local-strict/_definitions.json of the PyPI package
kubernetes-validate. Nothing is left out but descriptions; schemas that occur several times are kept once.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

KUBERAY, KUBERNETES = "1.7.0", "1.30"
OBJECTS = {
    "ServiceAccount": "io.k8s.api.core.v1.ServiceAccount",
    "NetworkPolicy": "io.k8s.api.networking.v1.NetworkPolicy",
    "PodDisruptionBudget": "io.k8s.api.policy.v1.PodDisruptionBudget",
}
METADATA = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
_WORTH_SHARING = 200  # characters


def kuberay_schemas(folder: Path) -> dict[str, Any]:
    """The schema of each kind, version v1. The API server checks ``metadata`` as of any other object."""
    found = {}
    for name in ("rayclusters", "rayjobs", "rayservices"):
        definition = yaml.load((folder / f"ray.io_{name}.yaml").read_text(), yaml.CSafeLoader)
        (version,) = (one for one in definition["spec"]["versions"] if one["name"] == "v1")
        schema = version["schema"]["openAPIV3Schema"]
        schema["properties"]["metadata"] = {"$ref": f"#/$defs/{METADATA}"}
        found[definition["spec"]["names"]["kind"]] = schema
    return found


def kubernetes_schemas(path: Path) -> dict[str, Any]:
    """The schema of each kind in OBJECTS, and all that they refer to."""
    defs = json.loads(path.read_text())["$defs"]
    found = {kind: {"$ref": f"#/$defs/{name}"} for kind, name in OBJECTS.items()}
    waiting = [*OBJECTS.values(), METADATA]
    while waiting:
        if (name := waiting.pop()) not in found:
            found[name] = without_descriptions(defs[name])
            waiting += [text.removeprefix("#/$defs/") for text in references(found[name])]
    return found


def without_descriptions(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {
            name: without_descriptions(branch)
            for name, branch in tree.items()
            if not (name == "description" and isinstance(branch, str))
        }
    return [without_descriptions(branch) for branch in tree] if isinstance(tree, list) else tree


def references(tree: Any) -> list[str]:
    if isinstance(tree, dict):
        own = [tree["$ref"]] if isinstance(tree.get("$ref"), str) else []
        return own + [text for branch in tree.values() for text in references(branch)]
    return [text for branch in tree for text in references(branch)] if isinstance(tree, list) else []


def text_of(tree: Any) -> str:
    return json.dumps(tree, sort_keys=True, separators=(",", ":"))


def shared(schemas: dict[str, Any]) -> dict[str, Any]:
    """The same schemas; what occurs more than once is a definition of its own."""
    counts, names, definitions = Counter[str](), dict[str, str](), dict[str, Any]()

    def count(tree: Any) -> None:
        if isinstance(tree, dict):
            counts[text_of(tree)] += 1
        for branch in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
            count(branch)

    def packed(tree: Any, name: str = "") -> Any:
        if isinstance(tree, list):
            return [packed(branch) for branch in tree]
        if not isinstance(tree, dict):
            return tree
        text = text_of(tree)
        if name == "properties" or counts[text] == 1 or len(text) < _WORTH_SHARING:
            return {key: packed(branch, key) for key, branch in tree.items()}
        if text not in names:
            names[text] = f"shared-{len(names)}"
            definitions[names[text]] = {key: packed(branch, key) for key, branch in tree.items()}
        return {"$ref": f"#/$defs/{names[text]}"}

    count(list(schemas.values()))
    return {kind: packed(schema) for kind, schema in schemas.items()} | definitions


if __name__ == "__main__":
    definitions = shared(kuberay_schemas(Path(sys.argv[1])) | kubernetes_schemas(Path(sys.argv[2])))
    source = (
        f"KubeRay {KUBERAY}, helm-chart/kuberay-operator/crds, version v1 (Apache-2.0);"
        f" Kubernetes {KUBERNETES}, OpenAPI (Apache-2.0). Made by pack_schemas.py."
    )
    lines = ",\n".join(f"{json.dumps(name)}:{text_of(tree)}" for name, tree in definitions.items())
    Path(__file__).with_name("schemas.json").write_text(
        f'{{"$comment":{json.dumps(source)},\n"$defs":{{\n{lines}}}}}\n'
    )
