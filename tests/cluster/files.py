"""The files of cluster/, and the schemas of the programs that read them."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from tests.conftest import ROOT

CLUSTER = ROOT / "cluster"
SCHEMAS = json.loads(Path(__file__).with_name("schemas.json").read_text())["$defs"]


def documents(name: str) -> list[dict]:
    return list(yaml.safe_load_all((CLUSTER / name).read_text()))


def read(name: str) -> dict:
    return documents(name)[0]


def closed(tree: Any) -> Any:
    """The schema without fields that it does not name: `kubectl apply` refuses them too."""
    if isinstance(tree, list):
        return [closed(branch) for branch in tree]
    if not isinstance(tree, dict):
        return tree
    fields = isinstance(tree.get("properties"), dict) and tree.get("type") == "object"
    return ({"additionalProperties": False} if fields else {}) | {
        name: closed(branch) for name, branch in tree.items()
    }


_CLOSED = closed(SCHEMAS)


def check(manifest: dict) -> None:
    """Raise ValidationError unless KubeRay's or Kubernetes' schema of this kind allows the manifest."""
    schema = {"$ref": f"#/$defs/{manifest['kind']}", "$defs": _CLOSED}
    jsonschema.Draft202012Validator(schema).validate(manifest)
