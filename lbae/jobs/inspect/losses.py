"""Plot losses of several models over epochs, and distances of their samples."""

from collections import Counter
from typing import Any

from lbae.config import Config, ModelConfig
from lbae.errors import UserError
from lbae.io.artifacts import model_artifact
from lbae.io.artifacts.manifest import MANIFEST, Manifest, entry, read_manifest
from lbae.io.images import is_picture
from lbae.io.picture_file import write_picture
from lbae.io.storage.location import resolve
from lbae.io.storage.stored_file import damaged
from lbae.jobs.options import Names, OneOrMore
from lbae.report.features.sample_distances import sample_distances
from lbae.report.figures import plots as figures


def losses(
    *, models: Names, out: str, data: OneOrMore | None = None, train_data: OneOrMore | None = None
) -> dict[str, Any]:
    """Plot the losses of several models over epochs, and how far their samples are from test images.

    Args:
        models: URI of a model. Repeat for several, all trained with the same loss (mse or bce).
        out: PNG file to write (*.png).
        data: URI of test images, to measure the samples' distances. If omitted: losses only.
        train_data: URI of the labelled training images; --data requires it.
    """
    if (data is None) != (train_data is None):
        raise UserError(
            "the samples' distances need both --data (test images) and --train-data (labelled training"
            " images)"
        )
    if not is_picture(out):
        raise UserError(f"the figure is a PNG file; give an --out that ends in .png instead of {out}")
    manifests = {uri: read_manifest(uri, model_artifact.KIND) for uri in models}
    configs = {uri: Config.from_dict(manifest.config) for uri, manifest in manifests.items()}
    kinds = {config.train.loss for config in configs.values()}
    if len(kinds) != 1:
        raise UserError(
            f"the models were trained with different losses ({', '.join(sorted(kinds))}); draw one figure"
            f" per loss"
        )
    names = {uri: _name(config.model) for uri, config in configs.items()}
    alike = [name for name, count in Counter(names.values()).items() if count > 1]
    runs = {
        f"{name}, {uri}" if name in alike else name: _history(uri, manifests[uri])
        for uri, name in names.items()
    }
    named = dict(zip(runs, manifests, strict=True))
    apart = sample_distances(named, data, train_data) if data and train_data else {}
    write_picture(out, figures.plot_losses(runs, kinds.pop(), apart))
    last = {
        name: {key: value for key, value in history[-1].items() if key != "number"}
        for name, history in runs.items()
    }
    return {"out": out, "last": last} | ({"sample_distances": apart} if apart else {})


def _history(uri: str, manifest: Manifest) -> list[dict[str, Any]]:
    """The epochs of a model; raises UserError if its manifest lists none, or not by number and losses."""
    history = entry(uri, manifest, "result", "history", list)
    for epoch in history or [None]:
        if not isinstance(epoch, dict) or not isinstance(epoch.get("number"), int):
            raise damaged(resolve(uri) / MANIFEST, f"an epoch of its history is {epoch!r:.100}")
        if odd := [one for one in epoch.values() if not isinstance(one, int | float | None)]:
            raise damaged(resolve(uri) / MANIFEST, f"an epoch of its history has the loss {odd[0]!r:.100}")
    return history


def _name(model: ModelConfig) -> str:
    return f"{model.bottleneck}, N = {model.latent_dim}"
