"""Losses of several training runs in one figure."""

from collections import Counter
from typing import Any

from lbae.errors import UserError
from lbae.io import model as model_io
from lbae.io.artifact import read_manifest
from lbae.io.images import is_picture
from lbae.io.storage import resolve
from lbae.report import figures


def losses(*, models: tuple[str, ...], out: str) -> dict[str, Any]:
    """Draw losses over epochs of several models, baselines among them.

    Args:
        models: URIs of model artifacts trained with one loss.
        out: a picture (*.png).
    """
    if not is_picture(out):
        raise UserError(f"the figure is a PNG; name the output *.png instead of {out}")
    manifests = {uri: read_manifest(uri, model_io.KIND) for uri in models}
    kinds = {manifest.config["train"]["loss"] for manifest in manifests.values()}
    if len(kinds) != 1:
        raise UserError(f"the models were trained with different losses ({', '.join(sorted(kinds))}); draw one figure each")
    names = {uri: _name(manifest.config["model"]) for uri, manifest in manifests.items()}
    alike = [name for name, count in Counter(names.values()).items() if count > 1]
    runs = {f"{name}, {uri}" if name in alike else name: manifests[uri].result["history"] for uri, name in names.items()}
    resolve(out).write_bytes(figures.losses(runs, kinds.pop()))
    last = {name: {key: value for key, value in history[-1].items() if key != "number"} for name, history in runs.items()}
    return {"out": out, "last": last}


def _name(model: dict[str, Any]) -> str:
    return f"{model.get('bottleneck', 'bernoulli')}, N = {model['latent_dim']}"
