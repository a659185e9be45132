"""Bundles for the tests of the service, derived from that of the fixture ``pipeline``."""

import dataclasses
from pathlib import Path

import numpy as np

from lbae.config import Config
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.io.artifacts.bundle_artifact import load_bundle, save_bundle
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.artifacts.model_artifact import load_network, save_model
from lbae.io.artifacts.output import Output
from tests.conftest import Pipeline


def untrained_bundle(pipeline: Pipeline, out: Path, nearly_equal: bool = False, **changes: object) -> str:
    """Publish the pipeline's bundle with an untrained network.

    With ``nearly_equal`` its normals' factor is close to singular, because two of its bits are nearly equal.
    """
    config = load_network(pipeline.model)[1]
    config = Config(model=dataclasses.replace(config.model, **changes), train=config.train)
    output = Output(f"{out}/model", "model", parents={}, config=config.to_dict())
    save_model(output, LatentBernoulliAutoencoder(config.model), config, {"images": 0})
    first, manifest = load_bundle(pipeline.bundle, "cpu"), read_manifest(pipeline.bundle)
    factor = first.normals.factor.copy()
    if nearly_equal:
        factor[2] = factor[1] * np.sqrt(1 - 1e-6)
        factor[2, 2] = 1e-3
    save_bundle(
        Output(f"{out}/bundle", "bundle", parents={}, config=manifest.config),
        model=f"{out}/model",
        prior=first.prior,
        pooled_factor=factor,
        attributes=first.attributes,
        values=first.values,
        examples=first.examples,
        rows=manifest.rows,
        result={},
        report={},
    )
    return f"{out}/bundle"
