"""Score a bundle: distances of its reconstructions and samples, and of the baselines' samples, to real test images."""

import json
from typing import Any

import numpy as np

from lbae.cli import run
from lbae.core.packing import unpack
from lbae.errors import UserError
from lbae.io.artifact import read_manifest
from lbae.io.bundle import load_bundle
from lbae.io.latent_table import open_latent_table, packed_latents
from lbae.io.moments import load_moments
from lbae.io.source import plan
from lbae.io.storage import absolute, resolve
from lbae.report.classifier import load_or_train
from lbae.report.evaluation import evaluate as score
from lbae.report.evaluation import labelled


def evaluate(
    *, bundle: str, data: str, train_data: str, latents: str, moments: str, classifier: str, out: str, seed: int = 0
) -> dict[str, Any]:
    """Score a bundle on test images.

    Args:
        bundle: URI of the bundle.
        data: URI of the test images, with a column label.
        train_data: URI of the training images, with a column label.
        latents: URI of the training images' latent table, to see whether samples repeat it.
        moments: URI of its moment sums, from which the baselines are fitted.
        classifier: URI of the classifier whose features are compared; trained on the training images when there is none.
        out: the report (*.json).
        seed: seed of the samples.
    """
    loaded, parents = load_bundle(bundle), read_manifest(bundle).parents
    table, (sums, manifest) = open_latent_table(absolute(latents)), load_moments(moments)
    for name, uri, found in (("latents", latents, table.manifest), ("moments", moments, manifest)):
        if found.fingerprint != parents[name]:
            raise UserError(f"bundle {bundle} was fitted from {name} {parents[name]}; {uri} is {found.fingerprint}")
    source = plan(absolute(train_data))
    test, train = labelled(plan(data), loaded.codec.config), labelled(source, loaded.codec.config)
    network, fingerprint = load_or_train(classifier, train.images, train.labels, source.fingerprint)
    known = unpack(np.concatenate([packed_latents(table.read(part, ["latent"])) for part in table.parts]), table.latent_dim)
    report = score(loaded, network, test, train, sums, known, seed)
    report |= {"bundle": loaded.fingerprint, "classifier": fingerprint, "seed": seed}
    resolve(out).write_bytes(json.dumps(report, indent=2).encode())
    return {"out": absolute(out), **report}


if __name__ == "__main__":
    run(evaluate)
