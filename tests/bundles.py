"""Bundles for the tests of the service, made from the ``pipeline`` fixture's."""

import dataclasses
from pathlib import Path

from lbae.config import Config
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.io.artifacts.bundle_artifact import load_bundle, save_bundle
from lbae.io.artifacts.model_artifact import load_network, save_model
from lbae.io.artifacts.output import read_manifest
from tests.conftest import Pipeline


def untrained_bundle(pipeline: Pipeline, out: Path, scale: float = 1.0, **changes: object) -> str:
    """The pipeline's bundle with an untrained network, and its normals' factor times ``scale``."""
    config = load_network(pipeline.model)[1]
    config = Config(model=dataclasses.replace(config.model, **changes), train=config.train)
    save_model(
        f"{out}/model",
        LatentBernoulliAutoencoder(config.model),
        config,
        parents={},
        run={},
        result={"images": 0},
    )
    first, manifest = load_bundle(pipeline.bundle, "cpu"), read_manifest(pipeline.bundle)
    save_bundle(
        f"{out}/bundle",
        model=f"{out}/model",
        prior=first.prior,
        pooled_factor=scale * first.normals.factor,
        attributes=first.attributes,
        examples=first.examples,
        parents={},
        config=manifest.config,
        rows=manifest.rows,
        result={},
        report={},
    )
    return f"{out}/bundle"
